//! The verify pass: writes stamps to random extents through the driver, reads them back in
//! other pieces, then compares the image file.

pub mod findings;
pub mod plan;

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::StdRng};

use self::{
    findings::{Findings, Place},
    plan::{Extent, LONGEST, Plan, Step},
};
use crate::{
    disk::{
        Disk,
        buffer::Buffer,
        cdb::Operation,
        discovery::DiskError,
        failures::Failures,
        port::CommandError,
        transfer::{Done, Durability, Initiator, Transfer},
    },
    stamp::{SECTOR, Stamp},
};
use testbed_machine::{clock, lock, memory::MemoryError};

/// The most transfers in flight on one CPU.
const DEPTH: usize = 8;

/// The number of waiting steps that are searched for one that can start.
const WINDOW: usize = 256;

/// The settings of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes to verify: whole blocks, at most the size of the disk.
    pub bytes: u64,
    /// The seed of all random choices.
    pub seed: u64,
    /// Virtual CPUs to run on.
    pub cpus: u32,
    /// Bytes of the machine's memory for the buffers, at most.
    pub buffer_bytes: u64,
}

/// The result of a pass.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes verified.
    pub bytes: u64,
    /// The number of extents.
    pub extents: usize,
    /// The number of rewritten parts of extents.
    pub rewrites: usize,
    /// Reads through the driver.
    pub reads: usize,
    /// Unwritten sectors beside the extents that were compared with their earlier contents.
    pub untouched: usize,
    /// The duration.
    pub elapsed: Duration,
    /// Steps with failed transfers that --keep-going ignored.
    pub failed: usize,
    /// The mismatches.
    pub findings: Findings,
}

/// A pass could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The size exceeds the disk, or is not a multiple of its blocks.
    #[error("{0}")]
    Length(String),
    /// A transfer failed.
    #[error(transparent)]
    Transfer(#[from] CommandError),
    /// The flush failed.
    #[error(transparent)]
    Flush(#[from] DiskError),
    /// The machine has too little memory for the buffers.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image file cannot be read.
    #[error("cannot read the image file: {0}")]
    Image(#[from] io::Error),
    /// All initiators ended, but steps are left.
    #[error("{0} steps were not completed, because completions were lost")]
    Undone(usize),
}

/// Verifies `settings.bytes` of `disk`. After the flush, `image` must have the same data.
/// Without an image, only reads are compared. `progress` counts bytes transferred or compared.
///
/// # Errors
/// See [`VerifyError`]. Wrong data is not an error, but in the outcome's findings.
pub fn verify(
    disk: &Disk,
    image: Option<&File>,
    settings: Settings,
    progress: &ProgressBar,
) -> Result<Outcome, VerifyError> {
    let begin = clock::instant();
    let block_bytes = disk.facts().block_bytes;
    if settings.bytes > disk.bytes() {
        return Err(VerifyError::Length(format!(
            "{} bytes is more than the size of the disk: give at most {}",
            settings.bytes,
            disk.bytes()
        )));
    }
    if !settings.bytes.is_multiple_of(block_bytes.into()) {
        return Err(VerifyError::Length(format!(
            "{} bytes is not a multiple of the disk's block size: give a multiple of {block_bytes}",
            settings.bytes
        )));
    }
    let plan = plan_of(disk, settings);
    let compared = image.map_or(0, |_| settings.bytes);
    progress.set_length(bytes_of_all(&plan.steps) + compared);
    let untouched = match image {
        Some(image) => contents(image, &plan.untouched)?,
        None => BTreeMap::new(),
    };
    let mut pass = Pass::new(
        disk,
        settings,
        progress,
        plan.steps.clone(),
        Expected::of(&plan),
    );
    pass.contents.untouched = untouched;
    let pass = Arc::new(pass);
    run(disk, &pass, settings)?;
    match disk.flush() {
        Err(DiskError::Command(error)) => {
            if let Some(error) = disk.failures().pass_over(error) {
                return Err(error.into());
            }
        }
        result => result?,
    }
    let mut state = pass.state();
    if let Some(image) = image {
        let State {
            expected, findings, ..
        } = &mut *state;
        compare_image(&pass.contents, expected, image, &plan, progress, findings)?;
    }
    let writes = plan
        .steps
        .iter()
        .filter(|step| matches!(step, Step::Write { .. }))
        .count();
    Ok(Outcome {
        bytes: settings.bytes,
        extents: plan.extents.len(),
        rewrites: writes - plan.extents.len(),
        reads: plan.steps.len() - writes,
        untouched: pass.contents.untouched.len(),
        elapsed: clock::instant() - begin,
        failed: state.failed,
        findings: std::mem::take(&mut state.findings),
    })
}

/// Reads and compares the data that [`verify`] wrote with the same `settings`. The disk must
/// not have been written since.
///
/// # Errors
/// See [`VerifyError`]. Wrong data is not an error, but in the findings.
pub fn read_again(
    disk: &Disk,
    settings: Settings,
    progress: &ProgressBar,
) -> Result<Findings, VerifyError> {
    let mut plan = plan_of(disk, settings);
    let expected = Expected::after(&plan);
    plan.steps.retain(|step| matches!(step, Step::Read { .. }));
    progress.set_length(bytes_of_all(&plan.steps));
    let pass = Arc::new(Pass::new(disk, settings, progress, plan.steps, expected));
    run(disk, &pass, settings)?;
    let mut state = pass.state();
    Ok(std::mem::take(&mut state.findings))
}

/// Compares `image` with the data of a pass that verified `bytes` of it with `seed`. The image was
/// blank before, and nothing else was written since. Its blocks have `block_bytes`. `progress`
/// counts bytes.
///
/// # Errors
/// [`VerifyError::Image`], and [`VerifyError::Length`] if a block is not a power of two, if
/// `bytes` or the image's length are not whole blocks, or if `bytes` is 0 or more than that length.
pub fn compare(
    image: &File,
    bytes: u64,
    seed: u64,
    block_bytes: u32,
    progress: &ProgressBar,
) -> Result<Findings, VerifyError> {
    let length = image.metadata()?.len();
    let whole = |bytes: u64| bytes > 0 && bytes.is_multiple_of(block_bytes.into());
    if !block_bytes.is_power_of_two() || !whole(length) || !whole(bytes) || bytes > length {
        return Err(VerifyError::Length(format!(
            "{bytes} bytes of an image of {length} bytes cannot be compared: give whole blocks of \
             {block_bytes} bytes, at most as many as the image has"
        )));
    }
    let plan = plan(seed, length, block_bytes, bytes);
    let blank = plan.untouched.iter().map(|sector| (*sector, [0; SECTOR]));
    let contents = Contents {
        seed,
        untouched: blank.collect(),
    };
    let mut findings = Findings::new(seed, block_bytes);
    progress.set_length(bytes);
    compare_image(
        &contents,
        &Expected::after(&plan),
        image,
        &plan,
        progress,
        &mut findings,
    )?;
    Ok(findings)
}

/// The plan of a pass that verifies `bytes` of a disk, all lengths in bytes.
fn plan(seed: u64, disk_bytes: u64, block_bytes: u32, bytes: u64) -> Plan {
    let sectors = |bytes: u64| bytes / SECTOR as u64;
    Plan::new(
        seed,
        sectors(disk_bytes),
        sectors(block_bytes.into()),
        sectors(bytes),
    )
}

/// The plan of a pass on `disk`.
fn plan_of(disk: &Disk, settings: Settings) -> Plan {
    let block_bytes = disk.facts().block_bytes;
    plan(settings.seed, disk.bytes(), block_bytes, settings.bytes)
}

fn bytes_of_all(steps: &[Step]) -> u64 {
    let bytes = steps.iter().map(|step| u64::from(bytes_of(step.extent())));
    bytes.sum()
}

/// Performs the steps through the driver.
fn run(disk: &Disk, pass: &Arc<Pass>, settings: Settings) -> Result<(), VerifyError> {
    let longest = LONGEST * SECTOR as u64;
    let cpus = settings.cpus.max(1) as usize;
    let in_flight = usize::try_from(settings.buffer_bytes / longest)
        .unwrap_or(usize::MAX)
        .clamp(1, DEPTH * cpus);
    let count = cpus.min(in_flight);
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut initiators: Vec<Box<dyn Initiator>> = Vec::new();
    for _ in 0..count {
        let buffers = disk.buffers(&mut random, in_flight / count, longest as u32)?;
        initiators.push(Box::new(Verifier {
            pass: Arc::clone(pass),
            slots: buffers
                .into_iter()
                .map(|buffer| Slot { buffer, step: None })
                .collect(),
        }));
    }
    // Their findings are in the pass.
    drop(disk.run(initiators));
    let mut state = pass.state();
    if let Some(error) = state.error.take() {
        return Err(error.into());
    }
    match state.waiting.len() + state.in_flight.len() {
        0 => Ok(()),
        left => Err(VerifyError::Undone(left)),
    }
}

/// Reads these sectors of the image.
fn contents(image: &File, sectors: &[u64]) -> io::Result<BTreeMap<u64, [u8; SECTOR]>> {
    sectors
        .iter()
        .map(|&sector| {
            let mut bytes = [0; SECTOR];
            image.read_exact_at(&mut bytes, sector * SECTOR as u64)?;
            Ok((sector, bytes))
        })
        .collect()
}

/// Compares all written sectors and the unwritten ones in the image.
fn compare_image(
    contents: &Contents,
    expected: &Expected,
    image: &File,
    plan: &Plan,
    progress: &ProgressBar,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let mut bytes = vec![0; LONGEST as usize * SECTOR];
    for span in plan.spans() {
        let mut start = span.start;
        while start < span.end {
            let extent = start..(start + LONGEST).min(span.end);
            let bytes = &mut bytes[..(extent.end - extent.start) as usize * SECTOR];
            image.read_exact_at(bytes, start * SECTOR as u64)?;
            let generations = expected.generations(&extent);
            contents.compare(Place::Image, &extent, bytes, &generations, findings);
            progress.inc(bytes.len() as u64);
            start = extent.end;
        }
    }
    for &sector in &plan.untouched {
        let mut bytes = [0; SECTOR];
        image.read_exact_at(&mut bytes, sector * SECTOR as u64)?;
        let extent = sector..sector + 1;
        contents.compare(Place::Image, &extent, &bytes, &[0], findings);
    }
    Ok(())
}

/// What sectors must have.
struct Contents {
    /// The seed of the stamps in written ones.
    seed: u64,
    /// The earlier contents of those that are never written.
    untouched: BTreeMap<u64, [u8; SECTOR]>,
}

impl Contents {
    /// Compares the data of `extent` with the written data. Generation 0 means never written.
    fn compare(
        &self,
        place: Place,
        extent: &Extent,
        bytes: &[u8],
        generations: &[u32],
        findings: &mut Findings,
    ) {
        let (sectors, _) = bytes.as_chunks::<SECTOR>();
        for ((sector, found), &generation) in extent.clone().zip(sectors).zip(generations) {
            if generation > 0 {
                findings.written(place, self.stamp(sector, generation), found);
            } else if let Some(before) = self.untouched.get(&sector) {
                findings.untouched(place, sector, before, found);
            }
        }
    }

    fn stamp(&self, sector: u64, generation: u32) -> Stamp {
        Stamp {
            sector,
            generation: generation.into(),
            seed: self.seed,
        }
    }
}

/// A pass in progress.
struct Pass {
    block_sectors: u64,
    contents: Contents,
    progress: ProgressBar,
    failures: Arc<Failures>,
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<Step>,
    in_flight: Vec<Step>,
    expected: Expected,
    findings: Findings,
    /// The first failed transfer; no step is issued after it.
    error: Option<CommandError>,
    /// Steps with failed transfers that --keep-going ignored.
    failed: usize,
}

impl Pass {
    fn new(
        disk: &Disk,
        settings: Settings,
        progress: &ProgressBar,
        steps: Vec<Step>,
        expected: Expected,
    ) -> Self {
        let block_bytes = disk.facts().block_bytes;
        Self {
            block_sectors: u64::from(block_bytes) / SECTOR as u64,
            contents: Contents {
                seed: settings.seed,
                untouched: BTreeMap::new(),
            },
            progress: progress.clone(),
            failures: Arc::clone(disk.failures()),
            state: Mutex::new(State {
                waiting: steps.into(),
                in_flight: Vec::new(),
                expected,
                findings: Findings::new(settings.seed, block_bytes),
                error: None,
                failed: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Removes and returns the next step that conflicts neither with a step in flight nor with
    /// an earlier waiting one. If there is none, the initiator of the conflicting step calls
    /// this again when that step ends.
    fn next(&self) -> Option<Step> {
        let mut state = self.state();
        if state.error.is_some() {
            return None;
        }
        let window = state.waiting.len().min(WINDOW);
        let index = (0..window).find(|&index| {
            let step = &state.waiting[index];
            let before = state.waiting.range(..index);
            !state
                .in_flight
                .iter()
                .chain(before)
                .any(|other| step.conflicts_with(other))
        })?;
        let step = state.waiting.remove(index)?;
        if let Step::Write { extent, generation } = &step {
            state.expected.set(extent, *generation);
        }
        state.in_flight.push(step.clone());
        Some(step)
    }

    /// Ends a step, and compares the data of a read.
    fn end(&self, step: &Step, result: Result<(), CommandError>, buffer: &Buffer) {
        let (read, generations) = {
            let mut state = self.state();
            state.in_flight.retain(|other| other != step);
            if let Err(error) = result {
                match self.failures.pass_over(error) {
                    Some(error) => {
                        state.error.get_or_insert(error);
                    }
                    None => {
                        state.failed += 1;
                        // The data after a failed write is unknown.
                        if let Step::Write { extent, .. } = step {
                            state.expected.set(extent, 0);
                        }
                    }
                }
                return;
            }
            match step {
                Step::Write { .. } => (None, Vec::new()),
                // No write to the extent was in flight since the read was issued.
                Step::Read { extent } => (Some(extent), state.expected.generations(extent)),
            }
        };
        self.progress
            .inc((step.extent().end - step.extent().start) * SECTOR as u64);
        let Some(extent) = read else {
            return;
        };
        let bytes = buffer.first(bytes_of(extent)).read();
        let block_bytes = self.block_sectors as u32 * SECTOR as u32;
        let mut findings = Findings::new(self.contents.seed, block_bytes);
        self.contents
            .compare(Place::Driver, extent, &bytes, &generations, &mut findings);
        self.state().findings.merge(findings);
    }
}

/// The length of an extent in bytes: at most 1 MiB, or one block.
fn bytes_of(extent: &Extent) -> u32 {
    ((extent.end - extent.start) * SECTOR as u64) as u32
}

/// The generation of every sector in the plan's extents.
struct Expected {
    spans: BTreeMap<u64, Vec<u32>>,
}

impl Expected {
    fn of(plan: &Plan) -> Self {
        let spans = plan
            .spans()
            .into_iter()
            .map(|span| (span.start, vec![0; (span.end - span.start) as usize]))
            .collect();
        Self { spans }
    }

    /// The generations when all writes of the plan are performed. Those to the same sector are
    /// performed in the order of the plan.
    fn after(plan: &Plan) -> Self {
        let mut expected = Self::of(plan);
        for step in &plan.steps {
            if let Step::Write { extent, generation } = step {
                expected.set(extent, *generation);
            }
        }
        expected
    }

    fn set(&mut self, extent: &Extent, generation: u32) {
        if let Some((start, span)) = self.spans.range_mut(..=extent.start).next_back() {
            let from = (extent.start - start) as usize;
            let to = (extent.end - start) as usize;
            span[from..to].fill(generation);
        }
    }

    /// The generation of each sector of `extent`; 0 if it was not written.
    fn generations(&self, extent: &Extent) -> Vec<u32> {
        let mut generations = vec![0; (extent.end - extent.start) as usize];
        let first = self
            .spans
            .range(..=extent.start)
            .next_back()
            .map_or(extent.start, |(start, _)| *start);
        for (&start, span) in self.spans.range(first..extent.end) {
            let from = start.max(extent.start);
            let to = (start + span.len() as u64).min(extent.end);
            if from < to {
                generations[(from - extent.start) as usize..(to - extent.start) as usize]
                    .copy_from_slice(&span[(from - start) as usize..(to - start) as usize]);
            }
        }
        generations
    }
}

/// A buffer and the step that uses it.
struct Slot {
    buffer: Buffer,
    step: Option<Step>,
}

/// Performs steps of a pass on one CPU.
struct Verifier {
    pass: Arc<Pass>,
    slots: Vec<Slot>,
}

impl Verifier {
    fn fill(&mut self, issue: &mut dyn FnMut(Transfer)) {
        let Self { pass, slots } = self;
        for (token, slot) in slots.iter_mut().enumerate() {
            if slot.step.is_some() {
                continue;
            }
            let Some(step) = pass.next() else {
                return;
            };
            let extent = step.extent();
            let buffer = slot.buffer.first(bytes_of(extent));
            let operation = match &step {
                Step::Write { generation, .. } => {
                    let bytes: Vec<u8> = extent
                        .clone()
                        .flat_map(|sector| pass.contents.stamp(sector, *generation).bytes())
                        .collect();
                    buffer.write(&bytes);
                    Operation::Write
                }
                Step::Read { .. } => {
                    // The data of an earlier step must not be taken for the data of this one.
                    buffer.write(&vec![0xEE; buffer.bytes as usize]);
                    Operation::Read
                }
            };
            issue(Transfer {
                token: token as u64,
                operation,
                lba: extent.start / pass.block_sectors,
                buffer,
                durability: Durability::Cached,
            });
            slot.step = Some(step);
        }
    }
}

impl Initiator for Verifier {
    fn start(&mut self, issue: &mut dyn FnMut(Transfer)) {
        self.fill(issue);
    }

    fn done(&mut self, done: Done, issue: &mut dyn FnMut(Transfer)) {
        let slot = self.slots.get_mut(done.token as usize);
        if let Some((step, buffer)) =
            slot.and_then(|slot| Some((slot.step.take()?, slot.buffer.clone())))
        {
            self.pass.end(&step, done.result, &buffer);
        }
        self.fill(issue);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
