//! Parses diskspd's options: one letter, with the value attached (`-b8K -r -o32 -w30`).
//! `/` in place of `-` is accepted, too (`/b8K`).
//!
//! Meanings, defaults and conflicts are those of diskspd 2.2 (`CmdLineParser.cpp`,
//! `Profile::Validate`). Options that do not apply to the testbed are rejected with a reason,
//! never ignored.

use std::{ops::RangeInclusive, path::PathBuf, time::SystemTime};

/// Limits of the testbed, not of diskspd. A greater value is probably a typing error.
const MOST_SECONDS: u32 = 1_000_000;
const MOST_THREADS: u32 = 4096;
const MOST_OUTSTANDING: u32 = 65536;
const MOST_INTERVALS: u32 = 1_000_000;

/// The access pattern of the workload. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `-s`: every thread has its own sequential position.
    Sequential {
        /// From one I/O to the next.
        stride: u64,
    },
    /// `-si`: all threads share one sequential position.
    Interlocked {
        /// From one I/O to the next.
        stride: u64,
    },
    /// `-p`: every outstanding I/O of a thread has its own sequential position, all with the
    /// same start.
    Parallel {
        /// From one I/O to the next.
        stride: u64,
    },
    /// `-r`: random offsets.
    Random {
        /// Offsets are multiples of this.
        align: u64,
    },
    /// `-rs`: sequential runs that start at random offsets.
    Mixed {
        /// Offsets are multiples of this; also the stride.
        align: u64,
        /// The percentage of I/Os at random offsets.
        random_percent: u8,
    },
}

impl Access {
    /// The distance of offsets, in bytes: never 0.
    #[must_use]
    pub fn step(&self) -> u64 {
        match *self {
            Self::Sequential { stride }
            | Self::Interlocked { stride }
            | Self::Parallel { stride } => stride,
            Self::Random { align } | Self::Mixed { align, .. } => align,
        }
    }
}

/// The data of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteSource {
    /// 0, 1, 2, ... 255, 0, 1, ...: diskspd's default.
    Pattern,
    /// `-Z`: zeros.
    Zeros,
    /// `-Zr`: new random bytes for each write.
    RandomEach,
    /// `-Z<size>`: a random piece of a buffer of random bytes.
    RandomBuffer {
        /// Its length in bytes.
        bytes: u64,
    },
    /// `-Z<size>,<file>`: a random piece of a buffer filled from a file.
    FileBuffer {
        /// Its length in bytes.
        bytes: u64,
        /// The file; it is repeated if it is shorter.
        path: PathBuf,
    },
}

/// The virtual CPUs of the threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Round robin over all: diskspd's default, `-ag`.
    All,
    /// `-a0,2`: round robin over these.
    Of(Vec<u32>),
}

/// A workload as diskspd's options describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The options as given, for the output.
    pub given: Vec<String>,
    /// `-b`: bytes of an I/O.
    pub block_bytes: u32,
    /// `-B`: first byte of the range.
    pub base: u64,
    /// `-f`, `-Bbase:length`: end of the range in bytes, exclusive.
    pub end: Option<u64>,
    /// `-d`: measured seconds.
    pub duration_s: u32,
    /// `-W`: seconds before the measurement.
    pub warm_up_s: u32,
    /// `-C`: seconds after the measurement.
    pub cool_down_s: u32,
    /// `-D`: milliseconds of an interval for the IOPS deviation.
    pub interval_ms: Option<u32>,
    /// `-t`, `-F`: threads.
    pub threads: u32,
    /// `-o`, `-O`: outstanding I/Os of a thread.
    pub outstanding: u32,
    /// `-r`, `-rs`, `-s`, `-si`, `-p`.
    pub access: Access,
    /// `-T`: bytes between the starts of sequential threads.
    pub thread_stride: u64,
    /// `-w`: the percentage of writes.
    pub write_percent: u8,
    /// `-Su`, `-S`: no software cache.
    pub unbuffered: bool,
    /// `-Sw`, `-Sh`: a write completes when it is on the medium.
    pub write_through: bool,
    /// `-L`: latencies are recorded and printed.
    pub latency: bool,
    /// `-z`: seed; a thread's seed is this plus its number.
    pub seed: u32,
    /// `-Z`.
    pub source: WriteSource,
    /// `-a`.
    pub affinity: Affinity,
    /// Warnings of diskspd.
    pub warnings: Vec<String>,
}

/// The options do not describe a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// diskspd has no such option.
    #[error(
        "unknown workload option {0}: after `--`, give diskspd's options, such as -b8K -r -o32 \
         -w30 -d10"
    )]
    Unknown(String),
    /// An option of diskspd that the testbed does not support.
    #[error("diskspd option {option} is not supported by the testbed: {why}")]
    Unsupported {
        /// As given.
        option: String,
        /// The reason, and what to do instead.
        why: &'static str,
    },
    /// Not an option.
    #[error(
        "{0:?} is not an option: leave out targets, because the testbed's disk is the only one; \
         attach values to their option (-b8K)"
    )]
    Target(String),
    /// The option does not accept the value.
    #[error("option {option}: {why}")]
    Value {
        /// As given.
        option: String,
        /// What is wrong with it, and which values are accepted.
        why: String,
    },
    /// Options that exclude each other.
    #[error("{0}")]
    Conflict(&'static str),
}

/// The `-r` and `-s` options so far.
#[derive(Default)]
struct AccessChoice {
    /// Bytes of `-r<align>`, if `-r` was given.
    random: Option<u64>,
    /// `-rs<percent>`.
    random_percent: Option<u8>,
    /// Bytes of `-s<stride>`, if `-s` was given.
    stride: Option<u64>,
    interlocked: bool,
    parallel: bool,
}

/// The `-S` and `-h` options so far.
#[derive(Default)]
struct CacheChoice {
    /// `-Sb`: the default, given explicitly.
    cached: bool,
    unbuffered: bool,
    write_through: bool,
}

impl Options {
    /// Parses diskspd's options.
    ///
    /// # Errors
    /// The first wrong option.
    pub fn parse(given: &[String]) -> Result<Self, OptionError> {
        let mut options = Self {
            given: given.to_vec(),
            block_bytes: 64 << 10,
            base: 0,
            end: None,
            duration_s: 10,
            warm_up_s: 5,
            cool_down_s: 0,
            interval_ms: None,
            threads: 1,
            outstanding: 2,
            access: Access::Sequential { stride: 64 << 10 },
            thread_stride: 0,
            write_percent: 0,
            unbuffered: false,
            write_through: false,
            latency: false,
            seed: 0,
            source: WriteSource::Pattern,
            affinity: Affinity::All,
            warnings: Vec::new(),
        };
        // Sizes in blocks (`-r2b`) need the value of -b, which can come later.
        for option in given {
            if let Some(value) = switch(option).and_then(|rest| rest.strip_prefix('b'))
                && !value.is_empty()
            {
                options.block_bytes = block_bytes(option, value)?;
            }
        }
        let mut access = AccessChoice::default();
        let mut cache = CacheChoice::default();
        let mut pool = PoolChoice::default();
        for option in given {
            options.take(option, &mut access, &mut cache, &mut pool)?;
        }
        pool.settle(&mut options)?;
        options.unbuffered = cache.unbuffered;
        options.write_through = cache.write_through;
        options.access = access.settle(&options)?;
        options.check()?;
        Ok(options)
    }

    /// The same workload without writes, for a write-protected disk.
    #[must_use]
    pub fn without_writes(mut self) -> Self {
        let is_write = |option: &str| switch(option).is_some_and(|rest| rest.starts_with('w'));
        self.given.retain(|option| !is_write(option));
        self.write_percent = 0;
        self
    }

    /// Parses one option.
    fn take(
        &mut self,
        option: &str,
        access: &mut AccessChoice,
        cache: &mut CacheChoice,
        pool: &mut PoolChoice,
    ) -> Result<(), OptionError> {
        let Some(rest) = switch(option) else {
            return Err(OptionError::Target(option.to_owned()));
        };
        let mut letters = rest.chars();
        let Some(letter) = letters.next() else {
            return Err(OptionError::Unknown(option.to_owned()));
        };
        let value = letters.as_str();
        let block = self.block_bytes;
        match letter {
            'a' => self.take_affinity(option, value)?,
            'b' => {}
            'B' => self.take_range(option, value)?,
            'C' => self.cool_down_s = number_or_0(option, value, MOST_SECONDS)?,
            'd' => self.duration_s = number(option, value, 1..=MOST_SECONDS)?,
            'D' if value.is_empty() || value == "0" => self.interval_ms = Some(1000),
            'D' => self.interval_ms = Some(number(option, value, 1..=u32::MAX)?),
            'f' if value.starts_with(|first: char| first.is_ascii_digit()) => {
                self.set_end(size(option, value, block)?)?;
            }
            'F' => pool.total = Some(number(option, value, 1..=MOST_THREADS)?),
            'h' if value.is_empty() => cache.take(option, "h")?,
            'L' if value.is_empty() => self.latency = true,
            'o' => pool.outstanding = Some(number(option, value, 1..=MOST_OUTSTANDING)?),
            'O' => {
                pool.outstanding_in_pool = Some(number(option, value, 1..=MOST_OUTSTANDING)?);
            }
            'p' if value.is_empty() => access.parallel = true,
            'r' => access.take_random(option, value, block)?,
            'R' if value == "text" => {}
            's' => access.take_sequential(option, value, block)?,
            'S' => cache.take(option, value)?,
            't' => pool.per_target = Some(number(option, value, 1..=MOST_THREADS)?),
            'T' => self.thread_stride = positive_size(option, value, block)?,
            'w' if value.is_empty() => self.write_percent = 0,
            'w' => self.write_percent = percent(option, value, 0)?,
            'W' => self.warm_up_s = number_or_0(option, value, MOST_SECONDS)?,
            'z' if value.is_empty() => self.seed = seed_of_the_clock(),
            'z' => self.seed = number(option, value, 0..=u32::MAX)?,
            'Z' => self.source = write_source(option, value, block)?,
            _ => return Err(refusal(option, letter, value)),
        }
        Ok(())
    }

    fn take_affinity(&mut self, option: &str, value: &str) -> Result<(), OptionError> {
        if value == "g" {
            self.affinity = Affinity::All;
            return Ok(());
        }
        let mut cpus = match &self.affinity {
            Affinity::All => Vec::new(),
            Affinity::Of(cpus) => cpus.clone(),
        };
        for part in value.split(',') {
            match part.strip_prefix('g') {
                Some("0") => {}
                Some(_) => {
                    return Err(wrong(
                        option,
                        "the machine has one processor group: give g0, or no group",
                    ));
                }
                None => cpus.push(number(option, part, 0..=u32::MAX)?),
            }
        }
        if cpus.is_empty() {
            return Err(wrong(
                option,
                "no CPU is given: give CPU numbers, such as -a0,1",
            ));
        }
        self.affinity = Affinity::Of(cpus);
        Ok(())
    }

    fn take_range(&mut self, option: &str, value: &str) -> Result<(), OptionError> {
        let (base, length) = match value.split_once(':') {
            Some((base, length)) => (base, Some(length)),
            None => (value, None),
        };
        self.base = size(option, base, self.block_bytes)?;
        if let Some(length) = length {
            let length = positive_size(option, length, self.block_bytes)?;
            let end = self
                .base
                .checked_add(length)
                .ok_or_else(|| wrong(option, "base plus length exceeds 64 bits: lower them"))?;
            self.set_end(end)?;
        }
        Ok(())
    }

    fn set_end(&mut self, end: u64) -> Result<(), OptionError> {
        if self.end.replace(end).is_some() {
            return Err(OptionError::Conflict(
                "the end of the range is given twice: give one of -f<size> and -B<base>:<length>",
            ));
        }
        Ok(())
    }

    /// Checks combinations of options, as diskspd does.
    fn check(&mut self) -> Result<(), OptionError> {
        if self.end.is_some_and(|end| end <= self.base) {
            return Err(OptionError::Conflict(
                "the end of the range (-f) must be greater than its base (-B)",
            ));
        }
        if let WriteSource::RandomBuffer { bytes } | WriteSource::FileBuffer { bytes, .. } =
            self.source
            && bytes < u64::from(self.block_bytes)
        {
            return Err(OptionError::Conflict(
                "the write source (-Z<size>) is smaller than a block (-b): enlarge it",
            ));
        }
        if let Some(interval_ms) = self.interval_ms
            && u64::from(self.duration_s) * 1000
                > u64::from(interval_ms) * u64::from(MOST_INTERVALS)
        {
            return Err(OptionError::Conflict(
                "-D is too short for -d: at most 1000000 intervals are counted; raise -D",
            ));
        }
        let sequential = matches!(self.access, Access::Sequential { .. });
        if self.thread_stride > 0 {
            match self.access {
                Access::Random { .. } | Access::Mixed { .. } => {
                    return Err(OptionError::Conflict("-T conflicts with -r: leave out one"));
                }
                Access::Interlocked { .. } => {
                    return Err(OptionError::Conflict(
                        "-T conflicts with -si: leave out one",
                    ));
                }
                Access::Sequential { .. } | Access::Parallel { .. } if self.threads == 1 => {
                    return Err(OptionError::Conflict(
                        "-T has no effect with one thread: give -t2 or more, or leave out -T",
                    ));
                }
                Access::Sequential { .. } | Access::Parallel { .. } => {}
            }
        }
        if sequential && self.threads > 1 && self.thread_stride == 0 {
            self.warnings.push(
                "the threads' sequential I/Os overlap, so the disk does not see one sequential \
                 stream: consider -si or -T"
                    .to_owned(),
            );
        }
        if matches!(self.access, Access::Interlocked { .. }) && self.threads == 1 {
            self.warnings
                .push("-si with one thread has the effect of -s".to_owned());
        }
        if matches!(self.access, Access::Parallel { .. }) && self.outstanding == 1 {
            self.warnings
                .push("-p has no effect with one outstanding I/O (-o)".to_owned());
        }
        Ok(())
    }
}

/// Threads and outstanding I/Os, per target or per pool. With one target, the two are
/// equivalent, but diskspd does not accept a mixture.
#[derive(Default)]
struct PoolChoice {
    per_target: Option<u32>,
    total: Option<u32>,
    outstanding: Option<u32>,
    outstanding_in_pool: Option<u32>,
}

impl PoolChoice {
    fn settle(&self, options: &mut Options) -> Result<(), OptionError> {
        if self.per_target.is_some() && self.total.is_some() {
            return Err(OptionError::Conflict("-F conflicts with -t: leave out one"));
        }
        if self.outstanding_in_pool.is_some() && self.total.is_none() {
            return Err(OptionError::Conflict(
                "-O needs a thread pool (-F): give -F, or -o instead of -O",
            ));
        }
        if let Some(threads) = self.per_target.or(self.total) {
            options.threads = threads;
        }
        if let Some(outstanding) = self.outstanding_in_pool.or(self.outstanding) {
            options.outstanding = outstanding;
        }
        Ok(())
    }
}

impl AccessChoice {
    fn take_random(&mut self, option: &str, value: &str, block: u32) -> Result<(), OptionError> {
        if let Some(percentage) = value.strip_prefix('s') {
            if self.stride.is_some() {
                return Err(OptionError::Conflict(
                    "-s conflicts with -rs: give the alignment of mixed I/O with -r<align>",
                ));
            }
            if self.random_percent.is_some() {
                return Err(OptionError::Conflict("-rs is given twice: leave out one"));
            }
            self.random_percent = Some(percent(option, percentage, 1)?);
            return Ok(());
        }
        if value.starts_with('d') {
            return Err(unsupported(
                option,
                "random I/O has a uniform distribution; give -r, and narrow the range with \
                 -B<base>:<length>",
            ));
        }
        if self.stride.is_some() {
            return Err(OptionError::Conflict("-s conflicts with -r: leave out one"));
        }
        if self.random.is_some() {
            return Err(OptionError::Conflict("-r is given twice: leave out one"));
        }
        self.random = Some(if value.is_empty() {
            u64::from(block)
        } else {
            positive_size(option, value, block)?
        });
        Ok(())
    }

    fn take_sequential(
        &mut self,
        option: &str,
        value: &str,
        block: u32,
    ) -> Result<(), OptionError> {
        if self.random.is_some() || self.random_percent.is_some() {
            return Err(OptionError::Conflict(
                "-s conflicts with -r and -rs: give the alignment of random I/O with -r<align>",
            ));
        }
        if self.stride.is_some() {
            return Err(OptionError::Conflict("-s is given twice: leave out one"));
        }
        let (interlocked, value) = match value.strip_prefix('i') {
            Some(value) => (true, value),
            None => (false, value),
        };
        self.interlocked = interlocked;
        self.stride = Some(if value.is_empty() {
            u64::from(block)
        } else {
            positive_size(option, value, block)?
        });
        Ok(())
    }

    fn settle(&self, options: &Options) -> Result<Access, OptionError> {
        let block = u64::from(options.block_bytes);
        let align = self.random.unwrap_or(block);
        match (self.random, self.random_percent) {
            (None, None) => {}
            _ if self.parallel => {
                return Err(OptionError::Conflict("-p conflicts with -r: leave out one"));
            }
            (_, Some(random_percent)) if random_percent < 100 => {
                return Ok(Access::Mixed {
                    align,
                    random_percent,
                });
            }
            _ => return Ok(Access::Random { align }),
        }
        let stride = self.stride.unwrap_or(block);
        match (self.interlocked, self.parallel) {
            (true, true) => Err(OptionError::Conflict(
                "-si conflicts with -p: leave out one",
            )),
            (true, false) => Ok(Access::Interlocked { stride }),
            (false, true) => Ok(Access::Parallel { stride }),
            (false, false) => Ok(Access::Sequential { stride }),
        }
    }
}

impl CacheChoice {
    fn take(&mut self, option: &str, flags: &str) -> Result<(), OptionError> {
        let flags = if flags.is_empty() { "u" } else { flags };
        for flag in flags.chars() {
            let twice = match flag {
                'b' => std::mem::replace(&mut self.cached, true) | self.unbuffered,
                'm' => {
                    return Err(unsupported(
                        option,
                        "a disk is not memory-mapped; leave out the m",
                    ));
                }
                'r' => {
                    return Err(unsupported(
                        option,
                        "it is for remote file systems; leave it out, or give -Su",
                    ));
                }
                'h' => {
                    std::mem::replace(&mut self.unbuffered, true)
                        | std::mem::replace(&mut self.write_through, true)
                        | self.cached
                }
                'u' => std::mem::replace(&mut self.unbuffered, true) | self.cached,
                'w' => std::mem::replace(&mut self.write_through, true),
                _ => {
                    return Err(wrong(
                        option,
                        &format!(
                            "unknown caching flag {flag:?}: give -Sb, -Su, -Sw or -Sh, or leave it \
                             out"
                        ),
                    ));
                }
            };
            if twice {
                return Err(wrong(
                    option,
                    "the caching mode (-S, -h) is given twice: give one of -Sb, -Su, -Sw and -Sh; -Sh \
                     is -Su and -Sw",
                ));
            }
        }
        Ok(())
    }
}

/// The error of an option that the testbed does not support.
fn refusal(option: &str, letter: char, value: &str) -> OptionError {
    let why = match letter {
        '?' => "it prints help; give --help before the -- instead, or see diskspd's documentation",
        ':' => "it enables experiments inside diskspd; leave it out",
        'c' => "the disk is not a file to create; leave it out, and give the size with --size",
        'e' => "the testbed has no Event Tracing for Windows; leave it out",
        'f' => {
            "hints are for the Windows cache manager; leave it out, or limit the range with \
             -f<size>"
        }
        'g' => "the workload is not throttled; leave it out, and lower -o or -t instead",
        'i' | 'j' => "the workload never pauses; leave it out, and lower -o or -t instead",
        'I' => "a Storport miniport does not see I/O priorities; leave it out",
        'l' => {
            "large pages would make scatter/gather lists short, and the testbed keeps them long; \
             leave it out"
        }
        'n' => "each thread runs on one virtual CPU; leave it out, or choose CPUs with -a0,1",
        'N' => "it flushes memory-mapped files, and a disk is not one; leave it out",
        'P' => "a progress bar is shown if standard error is a terminal; leave it out",
        'R' => "results are printed as text only; leave it out, or give -Rtext",
        'v' => "all measurements are printed anyway; leave it out",
        'x' => "the testbed has no I/O completion ports; leave it out",
        'X' => "XML profiles are not read; give the profile's options instead",
        'y' => "the testbed has no Windows events; leave it out",
        'h' | 'L' | 'p' if !value.is_empty() => {
            return wrong(
                option,
                &format!("-{letter} has no value: leave out {value:?}"),
            );
        }
        _ => return OptionError::Unknown(option.to_owned()),
    };
    unsupported(option, why)
}

fn unsupported(option: &str, why: &'static str) -> OptionError {
    OptionError::Unsupported {
        option: option.to_owned(),
        why,
    }
}

fn wrong(option: &str, why: &str) -> OptionError {
    OptionError::Value {
        option: option.to_owned(),
        why: why.to_owned(),
    }
}

/// An option without its `-` or `/`. A path with a second `/` is not an option.
fn switch(option: &str) -> Option<&str> {
    option
        .strip_prefix('-')
        .or_else(|| option.strip_prefix('/').filter(|rest| !rest.contains('/')))
}

/// Parses seconds. Like diskspd, reads 0 if there is no number.
fn number_or_0(option: &str, value: &str, most: u32) -> Result<u32, OptionError> {
    match value {
        "" => Ok(0),
        value => number(option, value, 0..=most),
    }
}

/// A whole number in `range`.
fn number(option: &str, value: &str, range: RangeInclusive<u32>) -> Result<u32, OptionError> {
    match value.parse::<u32>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = range.into_inner();
            let why = format!("{value:?} is not a whole number from {least} to {most}");
            Err(wrong(option, &why))
        }
    }
}

fn percent(option: &str, value: &str, least: u8) -> Result<u8, OptionError> {
    match value.parse::<u8>() {
        Ok(percent) if (least..=100).contains(&percent) => Ok(percent),
        _ => Err(wrong(
            option,
            &format!("{value:?} is not a percentage from {least} to 100"),
        )),
    }
}

/// A size in bytes; `K`, `M`, `G`, `T` in powers of 1024, `b` in blocks.
fn size(option: &str, value: &str, block: u32) -> Result<u64, OptionError> {
    let digits = value.trim_end_matches(|last: char| !last.is_ascii_digit());
    let unit = match &value[digits.len()..] {
        "" => Some(1),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        "b" | "B" => Some(u64::from(block)),
        _ => None,
    };
    digits
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(count, unit)| count.checked_mul(unit))
        .ok_or_else(|| {
            wrong(
                option,
                &format!(
                    "{value:?} is not a size: give a number of bytes, or a number with K, M, G, \
                     T, or b for blocks"
                ),
            )
        })
}

fn positive_size(option: &str, value: &str, block: u32) -> Result<u64, OptionError> {
    match size(option, value, block)? {
        0 => Err(wrong(option, "the size must be greater than 0")),
        bytes => Ok(bytes),
    }
}

fn block_bytes(option: &str, value: &str) -> Result<u32, OptionError> {
    // For `-b2b`, a block is diskspd's default.
    let bytes = positive_size(option, value, 64 << 10)?;
    u32::try_from(bytes).map_err(|_| wrong(option, "a block must be smaller than 4 GiB"))
}

fn write_source(option: &str, value: &str, block: u32) -> Result<WriteSource, OptionError> {
    match value {
        "" => return Ok(WriteSource::Zeros),
        "r" => return Ok(WriteSource::RandomEach),
        _ => {}
    }
    let (bytes, path) = match value.split_once(',') {
        Some((bytes, path)) => (bytes, Some(PathBuf::from(path))),
        None => (value, None),
    };
    let bytes = positive_size(option, bytes, block)?;
    Ok(match path {
        Some(path) => WriteSource::FileBuffer { bytes, path },
        None => WriteSource::RandomBuffer { bytes },
    })
}

/// The seed of `-z` without a value. The output has it.
fn seed_of_the_clock() -> u32 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos() ^ since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionError> {
        let given: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&given)
    }

    fn accepted(line: &str) -> Options {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn refused(line: &str) -> String {
        match parse(line) {
            Ok(options) => panic!("{line} was accepted: {options:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn no_option_gives_the_defaults_of_diskspd() {
        let options = accepted("");

        assert_eq!(options.block_bytes, 65536);
        assert_eq!(options.duration_s, 10);
        assert_eq!(options.warm_up_s, 5);
        assert_eq!(options.cool_down_s, 0);
        assert_eq!(options.threads, 1);
        assert_eq!(options.outstanding, 2);
        assert_eq!(options.write_percent, 0);
        assert_eq!(options.seed, 0);
        assert_eq!(options.access, Access::Sequential { stride: 65536 });
        assert_eq!(options.source, WriteSource::Pattern);
        assert!(!options.latency && !options.write_through && !options.unbuffered);
    }

    #[test]
    fn an_option_without_its_value_means_what_it_means_to_diskspd() {
        let options = accepted("-W -C -D -w -b -z5 -r -Sb");

        assert_eq!((options.warm_up_s, options.cool_down_s), (0, 0));
        assert_eq!(options.interval_ms, Some(1000));
        assert_eq!(accepted("-D0").interval_ms, Some(1000));
        assert_eq!(options.write_percent, 0);
        assert_eq!(options.block_bytes, 65536);
        assert!(!options.unbuffered && !options.write_through);
    }

    #[test]
    fn the_line_of_many_scripts_for_databases_is_taken() {
        let options = accepted("-b8K -d1 -W0 -o4 -t8 -h -r -w25 -L -Z1G");

        assert_eq!(options.source, WriteSource::RandomBuffer { bytes: 1 << 30 });
    }

    #[test]
    fn a_slash_begins_an_option_like_a_dash() {
        let given = accepted("/b8K /r -o4 /w30");
        let same = accepted("-b8K -r -o4 -w30");
        assert_eq!(
            Options {
                given: same.given.clone(),
                ..given.clone()
            },
            same
        );
        assert_eq!(given.without_writes().given, ["/b8K", "/r", "-o4"]);
        assert!(refused("/k3").starts_with("unknown workload option /k3:"));
    }

    #[test]
    fn the_options_of_a_usual_line_are_all_taken() {
        let options = accepted("-b8K -d30 -W3 -C2 -t4 -o32 -r -w30 -Sh -L -D500 -z7 -Zr");

        assert_eq!(options.block_bytes, 8192);
        assert_eq!(
            (options.duration_s, options.warm_up_s, options.cool_down_s),
            (30, 3, 2)
        );
        assert_eq!((options.threads, options.outstanding), (4, 32));
        assert_eq!(options.access, Access::Random { align: 8192 });
        assert_eq!(options.write_percent, 30);
        assert!(options.unbuffered && options.write_through && options.latency);
        assert_eq!(options.interval_ms, Some(500));
        assert_eq!(options.seed, 7);
        assert_eq!(options.source, WriteSource::RandomEach);
        assert!(options.warnings.is_empty());
    }

    #[test]
    fn sizes_take_suffixes_and_blocks_wherever_b_stands() {
        assert_eq!(accepted("-r2b -b4K").access, Access::Random { align: 8192 });
        assert_eq!(accepted("-b512").block_bytes, 512);
        assert_eq!(accepted("-b1m").block_bytes, 1 << 20);
        assert_eq!(accepted("-f2G").end, Some(2 << 30));
        assert_eq!(accepted("-B1T").base, 1 << 40);
    }

    #[test]
    fn every_access_pattern_is_distinguished() {
        let cases = [
            ("-s", Access::Sequential { stride: 65536 }),
            ("-s128K", Access::Sequential { stride: 131_072 }),
            ("-si -t2", Access::Interlocked { stride: 65536 }),
            ("-si4K -t2", Access::Interlocked { stride: 4096 }),
            ("-p", Access::Parallel { stride: 65536 }),
            ("-r4K", Access::Random { align: 4096 }),
            ("-rs100", Access::Random { align: 65536 }),
            (
                "-rs20 -r8K",
                Access::Mixed {
                    align: 8192,
                    random_percent: 20,
                },
            ),
            (
                "-r8K -rs20",
                Access::Mixed {
                    align: 8192,
                    random_percent: 20,
                },
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(accepted(line).access, expected, "{line}");
        }
    }

    #[test]
    fn a_range_is_a_base_and_a_length_or_an_end() {
        let range = accepted("-B1M:2M");
        assert_eq!((range.base, range.end), (1 << 20, Some(3 << 20)));
        let end = accepted("-B1M -f4M");
        assert_eq!((end.base, end.end), (1 << 20, Some(4 << 20)));
    }

    #[test]
    fn write_sources_are_zeros_random_or_a_buffer() {
        assert_eq!(accepted("-Z").source, WriteSource::Zeros);
        assert_eq!(
            accepted("-Z1M").source,
            WriteSource::RandomBuffer { bytes: 1 << 20 }
        );
        assert_eq!(
            accepted("-Z1M,corpus.bin").source,
            WriteSource::FileBuffer {
                bytes: 1 << 20,
                path: PathBuf::from("corpus.bin")
            }
        );
    }

    #[test]
    fn cpus_are_named_one_by_one_or_all() {
        assert_eq!(accepted("-ag").affinity, Affinity::All);
        assert_eq!(accepted("-a0,2").affinity, Affinity::Of(vec![0, 2]));
        assert_eq!(accepted("-ag0,1,3").affinity, Affinity::Of(vec![1, 3]));
        assert_eq!(accepted("-a1 -a2").affinity, Affinity::Of(vec![1, 2]));
    }

    #[test]
    fn a_pool_of_threads_is_the_same_as_threads_of_one_target() {
        let options = accepted("-F3 -O7");
        assert_eq!((options.threads, options.outstanding), (3, 7));
    }

    #[test]
    fn the_caching_flags_combine_as_in_diskspd() {
        let cases = [
            ("-S", true, false),
            ("-Su", true, false),
            ("-Sw", false, true),
            ("-Sb", false, false),
            ("-Sbw", false, true),
            ("-Suw", true, true),
            ("-Swu", true, true),
            ("-Su -Sw", true, true),
            ("-Sh", true, true),
            ("-h", true, true),
        ];
        for (line, unbuffered, write_through) in cases {
            let options = accepted(line);
            assert_eq!(
                (options.unbuffered, options.write_through),
                (unbuffered, write_through),
                "{line}"
            );
        }
    }

    #[test]
    fn an_option_of_diskspd_that_is_not_done_here_is_refused_by_name_and_with_a_reason() {
        let options = "-? -:1 -c1G -ep -frs -g100 -i5 -j5 -I1 -l -n -Nv -P -Rxml -Rp \
            -rdpct90/10 -Sm -Sr -v -vs -x -Xprofile.xml -ysGo";
        for option in options.split(' ') {
            let message = refused(option);
            let start = format!("diskspd option {option} is not supported by the testbed: ");
            assert!(message.starts_with(&start), "{message}");
            let advice = ["leave", "give", "see"];
            let reason = &message[start.len()..];
            assert!(advice.iter().any(|word| reason.contains(word)), "{message}");
        }
    }

    #[test]
    fn what_diskspd_does_not_know_is_an_unknown_option() {
        let options = "-q -k3 -Y --help - -A -é";
        for option in options.split(' ') {
            let message = refused(option);
            assert!(
                message.starts_with(&format!("unknown workload option {option}:")),
                "{message}"
            );
        }
    }

    #[test]
    fn targets_are_refused_with_a_hint() {
        for target in ["#1", "C:", "test.dat", "8K", "/dev/sdb"] {
            assert!(refused(target).contains("leave out targets"), "{target}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let options = "-b0 -b4X -b4G -bK -b-1 -d -d0 -d1.5 -dx -W-1 -o0 -o -t0 -t \
            -w101 -wx -r0 -s0 -rs -rs0 -rs101 -T -T0 -B -B0: -B0:0 -f0x10 -zx \
            -z4294967296 -Z0 -Zx -D-1 -Sz -a -ax -ag1,0 -ag0 -Lx -hx -px -F0 \
            -t4097 -o65537 \
            -d1000001 -f99999999999T -B16777215T:2T";
        for option in options.split(' ') {
            let message = refused(option);
            assert!(
                message.starts_with(&format!("option {option}: ")),
                "{message}"
            );
        }
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for line in [
            "-r -s",
            "-s -r",
            "-r -r",
            "-s -s",
            "-rs20 -s",
            "-s -rs20",
            "-rs20 -rs30",
            "-r -p",
            "-si -p",
            "-r -T1M -t2",
            "-si -T1M -t2",
            "-T1M",
            "-t2 -F2",
            "-O4",
            "-f1M -B0:2M",
            "-B2M -f1M",
            "-B1M -f1M",
            "-Z4K",
            "-D1 -d1001",
            "-Su -Su",
            "-Sh -Sw",
            "-h -Su",
            "-Sb -Su",
            "-Su -Sb",
            "-Sb -h",
        ] {
            refused(line);
        }
    }

    #[test]
    fn overlapping_sequential_threads_are_warned_of() {
        assert_eq!(accepted("-t2").warnings.len(), 1);
        assert!(accepted("-t2 -T1M").warnings.is_empty());
        assert!(accepted("-t2 -si").warnings.is_empty());
        assert_eq!(accepted("-si").warnings.len(), 1);
        assert_eq!(accepted("-p -o1").warnings.len(), 1);
    }
}
