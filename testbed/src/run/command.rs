//! The command line that repeats a run.

/// The command `words`, with `--seed` if it was given none.
pub(super) fn repeating(words: impl IntoIterator<Item = String>, seed: u64) -> String {
    let words: Vec<String> = words.into_iter().collect();
    let end = words.iter().position(|word| word == "--");
    let (options, workload) = words.split_at(end.unwrap_or(words.len()));
    let has_seed = options
        .iter()
        .any(|word| word == "--seed" || word.starts_with("--seed="));
    let seed = if has_seed {
        vec![]
    } else {
        vec!["--seed".to_owned(), seed.to_string()]
    };
    let quoted: Vec<String> = options
        .iter()
        .chain(&seed)
        .chain(workload)
        .map(|word| quoted(word))
        .collect();
    quoted.join(" ")
}

/// A word as a shell takes it.
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

    fn repeated(line: &str) -> String {
        repeating(line.split(' ').map(str::to_owned), 7)
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
    fn words_that_a_shell_would_change_are_quoted() {
        let words = ["run", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(repeating(words, 7), r"run 'a b' 'it'\''s' '' --seed 7");
    }
}
