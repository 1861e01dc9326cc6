//! The options of the workload: those options of diskspd that apply to the testbed, with the
//! meaning and the defaults that they have there.
//!
//! diskspd's options are one or two letters with the value attached (`-b8K`, `-rs20`), after `-`
//! or `/`. clap knows no such options, so it gets `--b=8K`, and its messages lose a dash.

use std::{path::PathBuf, time::SystemTime};

use clap::{Parser, value_parser};

use crate::size::Size;

/// Limits of the testbed. A greater value is probably a typing error.
const MOST_SECONDS: i64 = 1_000_000;
const MOST_THREADS: i64 = 4096;
const MOST_OUTSTANDING: i64 = 65536;
const MOST_INTERVALS: u64 = 1_000_000;

/// The letters of diskspd's options that the testbed refuses, and the reason.
const REFUSED: &str = "\
?   give --help before the -- instead
:   the testbed has no experiments of diskspd; leave it out
c   the disk is not a file to create; give the size with --size before the --
e   the testbed has no Event Tracing for Windows; leave it out
gij the workload is not throttled; leave it out, and lower -o or -t instead
I   a Storport miniport does not see I/O priorities; leave it out
l   large pages would make scatter/gather lists short; leave it out
n   each thread runs on one virtual CPU; leave it out, or choose CPUs with -a0,1
N   it flushes memory-mapped files, and a disk is not one; leave it out
PRv the output has one format; leave it out
x   the testbed has no I/O completion ports; leave it out
X   the testbed reads no XML profiles; give the profile's options instead
y   the testbed has no Windows events; leave it out";

/// The access pattern of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `-s`: every thread has its own sequential position.
    Sequential,
    /// `-si`: all threads share one sequential position.
    Interlocked,
    /// `-p`: every outstanding I/O of a thread has its own sequential position, all with the
    /// same start.
    Parallel,
    /// `-r`: random offsets.
    Random,
    /// `-rs`: sequential runs that start at random offsets.
    Mixed {
        /// The percentage of I/Os at random offsets.
        random_percent: u8,
    },
}

/// The data of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteSource {
    /// 0, 1, 2, ... 255, 0, 1, ...: the default.
    Pattern,
    /// `-Z`: zeros.
    Zeros,
    /// `-Zr`: new random bytes for each write.
    RandomEach,
    /// `-Z<size>[,file]`: a random piece of a buffer.
    Buffer {
        /// Its length in bytes.
        bytes: u64,
        /// The file that fills the buffer, repeated if it is shorter; `None` for random bytes.
        file: Option<PathBuf>,
    },
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// The options as given, for the output.
    #[arg(skip)]
    pub given: Vec<String>,
    /// `-b`: bytes of an I/O.
    #[arg(long = "b", value_name = "SIZE", default_value = "64K", value_parser = block_bytes)]
    pub block_bytes: u32,
    /// `-B`: first byte of the range.
    #[arg(skip)]
    pub base: u64,
    /// `-f`, `-B<base>:<length>`: end of the range in bytes, exclusive.
    #[arg(skip)]
    pub end: Option<u64>,
    /// `-d`: measured seconds.
    #[arg(long = "d", value_name = "SECONDS", default_value = "10",
          value_parser = value_parser!(u32).range(1..=MOST_SECONDS))]
    pub duration_s: u32,
    /// `-W`: seconds before the measurement.
    #[arg(long = "W", value_name = "SECONDS", default_value = "5", num_args = 0..=1,
          default_missing_value = "0", value_parser = value_parser!(u32).range(..=MOST_SECONDS))]
    pub warm_up_s: u32,
    /// `-C`: seconds after the measurement.
    #[arg(long = "C", value_name = "SECONDS", default_value = "0", num_args = 0..=1,
          default_missing_value = "0", value_parser = value_parser!(u32).range(..=MOST_SECONDS))]
    pub cool_down_s: u32,
    /// `-D`: milliseconds of an interval for the IOPS deviation.
    #[arg(long = "D", value_name = "MILLISECONDS", num_args = 0..=1, default_missing_value = "0")]
    pub interval_ms: Option<u32>,
    /// `-t`, `-F`: threads. With one target, the two are the same.
    #[arg(long = "t", alias = "F", value_name = "THREADS", default_value = "1",
          value_parser = value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: u32,
    /// `-o`, `-O`: outstanding I/Os of a thread. With one target, the two are the same.
    #[arg(long = "o", alias = "O", value_name = "COUNT", default_value = "2",
          value_parser = value_parser!(u32).range(1..=MOST_OUTSTANDING))]
    pub outstanding: u32,
    /// `-r`, `-rs`, `-s`, `-si`, `-p`.
    #[arg(skip = Access::Sequential)]
    pub access: Access,
    /// The stride of sequential offsets, or the alignment of random ones, in bytes: never 0.
    #[arg(skip)]
    pub step: u64,
    /// `-T`: bytes between the starts of sequential threads.
    #[arg(skip)]
    pub thread_stride: u64,
    /// `-w`: the percentage of writes.
    #[arg(long = "w", value_name = "PERCENT", default_value = "0", num_args = 0..=1,
          default_missing_value = "0", value_parser = value_parser!(u8).range(..=100))]
    pub write_percent: u8,
    /// `-Sw`, `-Sh`: a write completes when it is on the medium. `-Su` and `-Sb` have no effect,
    /// because the testbed has no software cache.
    #[arg(long = "S", value_name = "b|u|w|h", default_value = "b", num_args = 0..=1,
          default_missing_value = "u", value_parser = write_through)]
    pub write_through: bool,
    /// `-L`: latencies are recorded and printed.
    #[arg(long = "L")]
    pub latency: bool,
    /// `-z`: seed; a thread's seed is this plus its number.
    #[arg(skip)]
    pub seed: u32,
    /// `-Z`.
    #[arg(skip = WriteSource::Pattern)]
    pub source: WriteSource,
    /// `-a`: the virtual CPUs of the threads, round robin; empty for all.
    #[arg(long = "a", value_name = "CPU,CPU", value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Warnings for the user.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

/// The options of [`Options`], and those whose meaning depends on others. Sizes can be in blocks
/// (`-r2b`), so they are parsed when `-b` is known.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: Options,
    #[arg(long = "B", value_name = "BASE[:LENGTH]")]
    base: Option<String>,
    #[arg(long = "f", value_name = "SIZE")]
    end: Option<String>,
    #[arg(long = "r", value_name = "ALIGN", conflicts_with_all = ["sequential", "interlocked", "parallel"])]
    random: Option<Option<String>>,
    #[arg(long = "rs", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100),
          conflicts_with_all = ["sequential", "interlocked", "parallel"])]
    random_percent: Option<u8>,
    #[arg(long = "s", value_name = "STRIDE", conflicts_with = "interlocked")]
    sequential: Option<Option<String>>,
    #[arg(long = "si", value_name = "STRIDE", conflicts_with = "parallel")]
    interlocked: Option<Option<String>>,
    #[arg(long = "p")]
    parallel: bool,
    #[arg(long = "T", value_name = "SIZE", conflicts_with_all = ["random", "random_percent", "interlocked"])]
    thread_stride: Option<String>,
    #[arg(long = "z", value_name = "SEED")]
    seed: Option<Option<u32>>,
    #[arg(long = "Z", value_name = "SIZE[,FILE]")]
    source: Option<Option<String>>,
}

/// The options do not describe a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workload options: {0}")]
pub struct OptionError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, OptionError> {
    Err(OptionError(why.into()))
}

impl Options {
    /// Parses diskspd's options.
    ///
    /// # Errors
    /// The first wrong option.
    pub fn parse(given: &[String]) -> Result<Self, OptionError> {
        let words: Result<Vec<String>, _> = given.iter().map(|word| long(word)).collect();
        let mut line = Line::try_parse_from(words?).or_else(|error| wrong(one_line(&error)))?;
        line.options.given = given.to_vec();
        line.settle()
    }

    /// The same workload without writes, for a write-protected disk.
    #[must_use]
    pub fn without_writes(mut self) -> Self {
        let is_write = |option: &str| switch(option).is_some_and(|rest| rest.starts_with('w'));
        self.given.retain(|option| !is_write(option));
        self.write_percent = 0;
        self
    }
}

impl Line {
    /// Completes the options, and checks their combinations.
    fn settle(self) -> Result<Options, OptionError> {
        let mut options = self.options;
        let block = options.block_bytes;
        let (access, option, step) = match (self.random, self.random_percent, self.interlocked) {
            (align, Some(random_percent @ ..100), _) => {
                (Access::Mixed { random_percent }, "-r", align)
            }
            (None, None, Some(stride)) => (Access::Interlocked, "-si", Some(stride)),
            (None, None, None) if self.parallel => (Access::Parallel, "-s", self.sequential),
            (None, None, None) => (Access::Sequential, "-s", self.sequential),
            (align, ..) => (Access::Random, "-r", align),
        };
        options.access = access;
        options.step = match step.flatten() {
            Some(step) => size(option, &step, block)?,
            None => block.into(),
        };
        if let Some(range) = &self.base {
            let (base, length) = match range.split_once(':') {
                Some((base, length)) => (base, Some(size("-B", length, block)?)),
                None => (&range[..], None),
            };
            options.base = if base == "0" {
                0
            } else {
                size("-B", base, block)?
            };
            if let Some(length) = length {
                let Some(end) = options.base.checked_add(length) else {
                    return wrong(format!(
                        "-B{range}: the range ends beyond any disk; lower it"
                    ));
                };
                options.end = Some(end);
            }
        }
        if let Some(end) = &self.end {
            if options.end.is_some() {
                return wrong("-f conflicts with the length of -B<base>:<length>: leave out one");
            }
            options.end = Some(size("-f", end, block)?);
        }
        if options.end.is_some_and(|end| end <= options.base) {
            return wrong("the end of the range (-f) must be greater than its base (-B)");
        }
        if let Some(stride) = &self.thread_stride {
            options.thread_stride = size("-T", stride, block)?;
            if options.threads == 1 {
                return wrong(
                    "-T has no effect with one thread: give -t2 or more, or leave it out",
                );
            }
        }
        if let Some(seed) = self.seed {
            options.seed = seed.unwrap_or_else(seed_of_the_clock);
        }
        options.source = match self.source {
            None => WriteSource::Pattern,
            Some(None) => WriteSource::Zeros,
            Some(Some(source)) => write_source(&source, block)?,
        };
        if let Some(interval_ms) = &mut options.interval_ms {
            if *interval_ms == 0 {
                *interval_ms = 1000;
            }
            let intervals = u64::from(options.duration_s) * 1000 / u64::from(*interval_ms);
            if intervals > MOST_INTERVALS {
                return wrong(format!(
                    "-D is too short for -d: at most {MOST_INTERVALS} intervals are counted; raise \
                     -D"
                ));
            }
        }
        let sequential = options.access == Access::Sequential;
        if sequential && options.threads > 1 && options.thread_stride == 0 {
            options.warnings.push(
                "the threads' sequential I/Os overlap, so the disk does not see one sequential \
                 stream: consider -si or -T"
                    .to_owned(),
            );
        }
        Ok(options)
    }
}

/// The word for clap: `--b=8K` for `-b8K` or `/b8K`.
fn long(word: &str) -> Result<String, OptionError> {
    let Some((rest, letter)) = switch(word).and_then(|rest| Some((rest, rest.chars().next()?)))
    else {
        return wrong(format!(
            "{word:?} is not an option: leave out targets, because the testbed's disk is the only \
             one; attach values to their option (-b8K)"
        ));
    };
    let mut refused = REFUSED.lines().map(|line| line.split_at(4));
    if let Some((_, why)) = refused.find(|(letters, _)| letters.trim_end().contains(letter)) {
        return wrong(format!(
            "diskspd's {word} is not supported by the testbed: {why}"
        ));
    }
    let rest = if rest == "h" { "Sh" } else { rest };
    let name = ["rs", "si"].into_iter().find(|name| rest.starts_with(name));
    let (name, value) = rest.split_at(name.map_or(letter.len_utf8(), str::len));
    Ok(match value {
        "" => format!("--{name}"),
        value => format!("--{name}={value}"),
    })
}

/// An option without its `-` or `/`. A path with a second `/` is not an option.
fn switch(word: &str) -> Option<&str> {
    word.strip_prefix('-')
        .or_else(|| word.strip_prefix('/').filter(|rest| !rest.contains('/')))
}

/// The first paragraph of clap's message, with diskspd's dashes.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").replace("--", "-")
}

/// A size in bytes; `K`, `M`, `G`, `T` in powers of 1024, `b` in blocks.
fn size(option: &str, text: &str, block: u32) -> Result<u64, OptionError> {
    let blocks = text
        .strip_suffix(['b', 'B'])
        .and_then(|count| count.parse::<u32>().ok());
    let bytes = match blocks {
        Some(count) => Some(u64::from(count) * u64::from(block)),
        None => text.parse().ok().map(|Size(bytes)| bytes),
    };
    match bytes {
        Some(bytes @ 1..) => Ok(bytes),
        _ => wrong(format!(
            "{option}: {text:?} is not a size greater than 0: give a number of bytes, or a number \
             with K, M, G, T, or b for blocks"
        )),
    }
}

fn block_bytes(text: &str) -> Result<u32, String> {
    let Size(bytes) = text.parse::<Size>().map_err(|error| error.to_string())?;
    match u32::try_from(bytes) {
        Ok(bytes @ 1..) => Ok(bytes),
        _ => Err("a block has 1 byte to 4 GiB - 1".to_owned()),
    }
}

fn write_through(flags: &str) -> Result<bool, String> {
    match flags {
        "b" | "u" => Ok(false),
        "h" | "w" | "uw" | "wu" | "bw" | "wb" => Ok(true),
        _ => Err("give -Sb, -Su, -Sw or -Sh".to_owned()),
    }
}

fn write_source(text: &str, block: u32) -> Result<WriteSource, OptionError> {
    if text == "r" {
        return Ok(WriteSource::RandomEach);
    }
    let (bytes, file) = match text.split_once(',') {
        Some((bytes, file)) => (bytes, Some(PathBuf::from(file))),
        None => (text, None),
    };
    let bytes = size("-Z", bytes, block)?;
    if bytes < block.into() {
        return wrong("the write source (-Z<size>) is smaller than a block (-b): enlarge it");
    }
    Ok(WriteSource::Buffer { bytes, file })
}

/// The seed of `-z` without a value. The output has it.
fn seed_of_the_clock() -> u32 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos() ^ since.as_secs() as u32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionError> {
        let given: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&given)
    }

    /// The options in `line`.
    pub(in super::super) fn accepted(line: &str) -> Options {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn refused(line: &str) -> String {
        match parse(line) {
            Ok(options) => panic!("{line} was accepted: {options:?}"),
            Err(OptionError(why)) => {
                assert!(!why.contains('\n'), "{why}");
                why
            }
        }
    }

    #[test]
    fn no_option_gives_the_defaults_of_diskspd() {
        let expected = Options {
            given: Vec::new(),
            block_bytes: 65536,
            base: 0,
            end: None,
            duration_s: 10,
            warm_up_s: 5,
            cool_down_s: 0,
            interval_ms: None,
            threads: 1,
            outstanding: 2,
            access: Access::Sequential,
            step: 65536,
            thread_stride: 0,
            write_percent: 0,
            write_through: false,
            latency: false,
            seed: 0,
            source: WriteSource::Pattern,
            cpus: Vec::new(),
            warnings: Vec::new(),
        };
        assert_eq!(accepted(""), expected);
    }

    #[test]
    fn each_option_sets_its_value() {
        let line = "-b8K -d30 -W3 -C2 -t4 -o32 -rs20 -r4K -w30 -Sh -L -D500 -z7 -Zr -a0,2 -B1M:2M";
        let expected = Options {
            given: line.split(' ').map(str::to_owned).collect(),
            block_bytes: 8192,
            base: 1 << 20,
            end: Some(3 << 20),
            duration_s: 30,
            warm_up_s: 3,
            cool_down_s: 2,
            interval_ms: Some(500),
            threads: 4,
            outstanding: 32,
            access: Access::Mixed { random_percent: 20 },
            step: 4096,
            thread_stride: 0,
            write_percent: 30,
            write_through: true,
            latency: true,
            seed: 7,
            source: WriteSource::RandomEach,
            cpus: vec![0, 2],
            warnings: Vec::new(),
        };
        assert_eq!(accepted(line), expected);
        let slashes = accepted(&line.replace('-', "/"));
        assert_eq!(slashes.given[0], "/b8K");
        let given = expected.given.clone();
        assert_eq!(Options { given, ..slashes }, expected);
    }

    #[test]
    fn an_option_without_its_value_means_what_it_means_to_diskspd() {
        let options = accepted("-W -C -D -w -r");
        assert_eq!((options.warm_up_s, options.cool_down_s), (0, 0));
        assert_eq!(options.interval_ms, Some(1000));
        assert_eq!(accepted("-D0").interval_ms, Some(1000));
        assert_eq!(options.write_percent, 0);
        accepted("-z");
    }

    #[test]
    fn a_pool_of_threads_is_the_same_as_threads_of_one_target() {
        let options = accepted("-F3 -O7");
        assert_eq!((options.threads, options.outstanding), (3, 7));
    }

    #[test]
    fn without_writes_the_line_has_no_w() {
        let options = accepted("/b8K /r -w30").without_writes();
        assert_eq!(
            (options.given.join(" "), options.write_percent),
            ("/b8K /r".to_owned(), 0)
        );
    }

    #[test]
    fn sizes_take_suffixes_and_blocks_wherever_b_stands() {
        assert_eq!(accepted("-r2b -b4K").step, 8192);
        assert_eq!(accepted("-b512").block_bytes, 512);
        assert_eq!(accepted("-b1m").block_bytes, 1 << 20);
        assert_eq!(accepted("-B1M -f2G").end, Some(2 << 30));
        assert_eq!(accepted("-B1T").base, 1 << 40);
        assert_eq!(accepted("-T1M -t2").thread_stride, 1 << 20);
    }

    #[test]
    fn every_access_pattern_is_distinguished() {
        for (line, access, step) in [
            ("-s128K", Access::Sequential, 131_072),
            ("-si -t2", Access::Interlocked, 65536),
            ("-si4K -t2", Access::Interlocked, 4096),
            ("-p", Access::Parallel, 65536),
            ("-p -s4K", Access::Parallel, 4096),
            ("-r4K", Access::Random, 4096),
            ("-rs100", Access::Random, 65536),
        ] {
            let options = accepted(line);
            assert_eq!((options.access, options.step), (access, step), "{line}");
        }
    }

    #[test]
    fn write_sources_are_zeros_random_or_a_buffer() {
        let bytes = 1 << 20;
        let file = Some(PathBuf::from("corpus.bin"));
        for (line, source) in [
            ("-Z", WriteSource::Zeros),
            ("-Z1M", WriteSource::Buffer { bytes, file: None }),
            ("-Z1M,corpus.bin", WriteSource::Buffer { bytes, file }),
        ] {
            assert_eq!(accepted(line).source, source, "{line}");
        }
    }

    #[test]
    fn writes_go_through_with_w_and_h() {
        for option in "-S -Su -Sb".split(' ') {
            assert!(!accepted(option).write_through, "{option}");
        }
        for option in "-Sw -Sbw -Suw -Swu -Sh -h".split(' ') {
            assert!(accepted(option).write_through, "{option}");
        }
    }

    #[test]
    fn an_option_of_diskspd_that_does_not_apply_is_refused_with_a_reason() {
        let options = "-? -:1 -c1G -ep -g100 -i5 -j5 -I1 -l -n -Nv -P -Rxml -v -vs -x -Xa.xml -ys";
        for option in options.split(' ') {
            let message = refused(option);
            let start = format!("diskspd's {option} is not supported by the testbed: ");
            assert!(message.starts_with(&start), "{message}");
            let advice = ["leave it out", "give"];
            assert!(
                advice.iter().any(|word| message.contains(word)),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for option in ["-q", "-k", "-Y", "-A", "-é"] {
            assert_eq!(
                refused(option),
                format!("unexpected argument '{option}' found")
            );
        }
        for word in ["--help", "--", "-=1", "--b=4K"] {
            refused(word);
        }
        for target in ["#1", "C:", "test.dat", "8K", "/dev/sdb", "-", ""] {
            // `parse` would split off an empty word.
            let Err(OptionError(why)) = Options::parse(&[target.to_owned()]) else {
                panic!("{target} was accepted");
            };
            assert!(why.contains("leave out targets"), "{why}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_their_option() {
        let options = "-b -b0 -b4X -b4G -bK -b-1 -d -d0 -d1.5 -dx -W-1 -o0 -o -t0 -t -w101 -wx \
            -r0 -s0 -rs -rs0 -rs101 -rdpct90/10 -T -T0 -B -B0: -B0:0 -f0x10 -frs -zx \
            -z4294967296 -Z0 -Zx -D-1 -Sz -Sm -Sr -a -ax -a0,x -Lx -px -t4097 -o65537 \
            -d1000001 -f99999999999T -B16777215T:2T -f5000000000b";
        for option in options.split(' ') {
            let message = refused(option);
            assert!(message.contains(&option[..2]), "{option}: {message}");
        }
        // The message names -t, which is the same.
        refused("-F0");
    }

    #[test]
    fn options_that_exclude_or_repeat_each_other_are_refused() {
        let lines = "-b4K -b8K;-L -L;-r -r;-s -s;-rs20 -rs30;-Su -Sw;-h -Su;-t2 -F2;-o2 -O2;\
            -r -s;-r -si;-rs20 -s;-rs20 -si;-s -si;-r -p;-rs20 -p;-si -p;-r -T1M -t2;\
            -rs20 -T1M -t2;-si -T1M -t2;-T1M;-f1M -B0:2M;-B2M -f1M;-B1M -f1M;-Z4K;-D1 -d1001";
        for line in lines.split(';') {
            refused(line);
        }
    }

    #[test]
    fn overlapping_sequential_threads_are_warned_of() {
        for (line, warnings) in [("-t2", 1), ("-t2 -T1M", 0), ("-t2 -si", 0)] {
            assert_eq!(accepted(line).warnings.len(), warnings, "{line}");
        }
    }
}
