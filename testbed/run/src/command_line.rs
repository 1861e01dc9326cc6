//! Changes the seeds in a command line of `testbed run`, so that it repeats a run.

/// The command line `words`, with `--seed` added if it has none.
pub(crate) fn repeating(words: impl IntoIterator<Item = String>, seed: u64) -> String {
    let words: Vec<String> = words.into_iter().collect();
    let has_seed = options(&words)
        .iter()
        .any(|word| word == "--seed" || word.starts_with("--seed="));
    let words = if has_seed {
        words
    } else {
        with_seed(words, seed)
    };
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    quoted.join(" ")
}

/// The words without `--seed` and `--seeds`.
pub(crate) fn without_seeds(words: &[String]) -> Vec<String> {
    let options = options(words);
    let mut kept = Vec::new();
    let mut rest = options.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--seed" | "--seeds" => drop(rest.next()),
            word if word.starts_with("--seed=") || word.starts_with("--seeds=") => {}
            _ => kept.push(word.clone()),
        }
    }
    kept.extend_from_slice(&words[options.len()..]);
    kept
}

/// The words with `--seed` added, before the workload.
pub(crate) fn with_seed(mut words: Vec<String>, seed: u64) -> Vec<String> {
    let end = options(&words).len();
    words.splice(end..end, ["--seed".to_owned(), seed.to_string()]);
    words
}

/// The words before the workload.
fn options(words: &[String]) -> &[String] {
    let end = words.iter().position(|word| word == "--");
    &words[..end.unwrap_or(words.len())]
}

/// Quotes a word for a shell, if necessary.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./,=:+%@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn repeated(line: &str) -> String {
        repeating(words(line), 7)
    }

    #[test]
    fn the_seed_is_added_before_the_workload() {
        assert_eq!(
            repeated("testbed run --verify -- -d1 -r"),
            "testbed run --verify --seed 7 -- -d1 -r"
        );
        assert_eq!(repeated("testbed run"), "testbed run --seed 7");
    }

    #[test]
    fn a_seed_that_was_given_stays() {
        for line in ["testbed run --seed 3 -- -d1", "testbed run --seed=3"] {
            assert_eq!(repeated(line), line);
        }
    }

    #[test]
    fn seeds_are_taken_out_of_the_options_alone() {
        for line in [
            "run --seed 3 --verify --seeds 20 -- --seed 1",
            "run --seed=3 --verify --seeds=20 -- --seed 1",
        ] {
            assert_eq!(
                without_seeds(&words(line)),
                words("run --verify -- --seed 1")
            );
        }
    }

    #[test]
    fn words_that_a_shell_would_change_are_quoted() {
        let words = ["run", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(repeating(words, 7), r"run 'a b' 'it'\''s' '' --seed 7");
    }
}
