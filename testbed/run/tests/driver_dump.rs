//! Runs of the command with `--dump` and the file that FERROSTOR_DRIVER names: after a crash
//! under load, a second copy of the driver writes a dump through the same device, with no lock,
//! no DPC, no interrupt and little memory.

mod command;

/// A short workload on two CPUs.
const SHORT: &str = "-b4K -r -o16 -t2 -w30 -d1 -W0";

/// Crashes the driver with these options of the command. Returns the output.
fn dumped(options: &[&str]) -> String {
    let dump = "--dump --cpus 2 --size 64M --verify-bytes 1M".split(' ');
    let options: Vec<&str> = dump.chain(options.iter().copied()).collect();
    command::passes("FERROSTOR_DRIVER", &options, SHORT)
}

/// The rest of the line that begins with `name`.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no line {name}: {text}"))
        .trim()
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_after_a_crash_under_load() {
    let text = dumped(&[]);

    // Each of the two CPUs had 16 requests in flight, and the writes have the length of the
    // dump port's.
    assert_eq!(
        line(&text, "dump "),
        "crashed with 32 requests in flight in 1 queue; 16MiB in 256 writes of at most 64KiB, 0 mismatches"
    );
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_where_the_crash_left_the_pin_in_use() {
    let text = dumped(&["--interrupts", "intx"]);

    assert!(line(&text, "dump ").ends_with(" 0 mismatches"), "{text}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_in_any_order_of_threads() {
    for seed in ["1", "2", "3"] {
        let text = dumped(&["--verify", "--seed", seed, "--restart", "1"]);

        assert!(line(&text, "dump ").ends_with(" 0 mismatches"), "{text}");
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_dump_copy_leaves_most_of_the_memory_that_it_may_have() {
    let text = dumped(&[]);

    let memory = text
        .lines()
        .find(|line| line.contains("of device extension"))
        .expect("memory is told of");
    let numbers: Vec<u32> = memory
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [extension, uncached, most] = numbers[..] else {
        panic!("{memory}");
    };
    assert!(2 * (extension + uncached) < most, "{memory}");
}
