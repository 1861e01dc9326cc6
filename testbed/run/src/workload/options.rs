//! The options of the workload: a few of diskspd's options, with the same meaning and defaults.

use clap::{ArgAction, Parser, value_parser};

use crate::size::Size;

/// Limits of the testbed. A greater value is probably a typing error.
const MOST_SECONDS: i64 = 1_000_000;
const MOST_THREADS: i64 = 4096;
const MOST_OUTSTANDING: i64 = 65536;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct Options {
    /// The options as given, for the output.
    #[arg(skip)]
    pub given: Vec<String>,
    /// `-b`: bytes of an I/O.
    #[arg(short, value_name = "SIZE", default_value = "64K", value_parser = block_bytes)]
    pub block_bytes: u32,
    /// `-d`: measured seconds.
    #[arg(short, value_name = "SECONDS", default_value = "10",
          value_parser = value_parser!(u32).range(1..=MOST_SECONDS))]
    pub duration_s: u32,
    /// `-W`: seconds before the measurement.
    #[arg(short = 'W', value_name = "SECONDS", default_value = "5",
          value_parser = value_parser!(u32).range(..=MOST_SECONDS))]
    pub warm_up_s: u32,
    /// `-t`: threads.
    #[arg(short, value_name = "THREADS", default_value = "1",
          value_parser = value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: u32,
    /// `-o`: outstanding I/Os of a thread.
    #[arg(short, value_name = "COUNT", default_value = "2",
          value_parser = value_parser!(u32).range(1..=MOST_OUTSTANDING))]
    pub outstanding: u32,
    /// `-r`: random offsets, which are multiples of `-b`. Without it, each thread is sequential,
    /// and starts in its own part of the disk.
    #[arg(short)]
    pub random: bool,
    /// `-w`: the percentage of writes.
    #[arg(short, value_name = "PERCENT", default_value = "0",
          value_parser = value_parser!(u8).range(..=100))]
    pub write_percent: u8,
    /// `-Sw`, `-Sh`: a write completes when it is on the medium. `-Su` and `-Sb` have no effect,
    /// because the testbed has no software cache.
    #[arg(short = 'S', value_name = "b|u|w|h", default_value = "b", action = ArgAction::Set,
          value_parser = write_through)]
    pub write_through: bool,
    /// `-L`: latencies are printed.
    #[arg(short = 'L')]
    pub latency: bool,
}

/// A workload option is wrong, or is an option of diskspd that the testbed does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "workload option {option}: {why}: the testbed has only a few of diskspd's options, with the \
     value attached (-b8K); --help before the -- lists them"
)]
pub struct OptionError {
    option: String,
    why: String,
}

impl Options {
    /// Parses the options.
    ///
    /// # Errors
    /// The first wrong option, or one that is repeated.
    pub fn parse(given: &[String]) -> Result<Self, OptionError> {
        let parse = |words: &[String]| {
            Self::try_parse_from(words).map_err(|error| OptionError {
                option: words.join(" "),
                why: one_line(&error),
            })
        };
        // clap names a letter, such as -4 for -r4K. Parsed alone, each word is named.
        for word in given {
            parse(std::slice::from_ref(word))?;
        }
        let given = given.to_vec();
        parse(&given).map(|options| Self { given, ..options })
    }

    /// The same workload without writes, for a write-protected disk.
    #[must_use]
    pub fn without_writes(mut self) -> Self {
        self.given.retain(|option| !option.starts_with("-w"));
        self.write_percent = 0;
        self
    }
}

/// The first paragraph of clap's message.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
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

    #[test]
    fn each_option_sets_its_value_and_none_gives_the_defaults_of_diskspd() {
        let defaults = Options {
            given: Vec::new(),
            block_bytes: 65536,
            duration_s: 10,
            warm_up_s: 5,
            threads: 1,
            outstanding: 2,
            random: false,
            write_percent: 0,
            write_through: false,
            latency: false,
        };
        assert_eq!(accepted(""), defaults);
        let line = "-b8K -d30 -W0 -t4 -o32 -r -w30 -Sh -L";
        let expected = Options {
            given: line.split(' ').map(str::to_owned).collect(),
            block_bytes: 8192,
            duration_s: 30,
            warm_up_s: 0,
            threads: 4,
            outstanding: 32,
            random: true,
            write_percent: 30,
            write_through: true,
            latency: true,
        };
        assert_eq!(accepted(line), expected);
    }

    #[test]
    fn writes_go_through_with_w_and_h() {
        for (options, write_through) in [("-Su -Sb", false), ("-Sw -Sbw -Suw -Swu -Sh", true)] {
            for option in options.split(' ') {
                assert_eq!(accepted(option).write_through, write_through, "{option}");
            }
        }
    }

    #[test]
    fn without_writes_the_line_has_no_w() {
        let options = accepted("-b8K -r -w30").without_writes();
        assert_eq!(options.given, ["-b8K", "-r"]);
        assert_eq!(options.write_percent, 0);
    }

    #[test]
    fn other_options_values_and_targets_are_refused_in_one_line_that_names_them() {
        let options = "-? -h -n -v -x -Rxml -c1G -r4K -rs20 -s -si -p -T1M -B1M -f1M -Z -Zr -z7 \
            -a0,2 -C2 -D500 -F3 -O7 -k -é --help --b=4K /b8K #1 C: 8K /dev/sdb - \
            -b -b0 -b4X -b4G -bK -b-1 -d -d0 -d1.5 -dx -W-1 -o0 -o -t0 -t -w101 -wx -Sz -Sm \
            -Lx -t4097 -o65537 -d1000001";
        for option in options.split_whitespace() {
            let message = parse(option).expect_err(option).to_string();
            let start = format!("workload option {option}: ");
            assert!(message.starts_with(&start), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        for line in ["-b4K -b8K", "-L -L", "-Su -Sw"] {
            let message = parse(line).expect_err(line).to_string();
            assert!(message.contains("multiple times"), "{message}");
        }
    }
}
