//! How busy the threads of this process were, as the host counts it.

use std::{collections::BTreeMap, fs, time::Instant};

use super::results::CpuShare;

/// Ticks a second in `/proc` on x86-64 (USER_HZ; `proc_pid_stat(5)`).
const TICKS: f64 = 100.0;

/// CPU time of the process's threads at one moment, threads of one name
/// together.
#[derive(Debug)]
pub struct Sample {
    at: Instant,
    /// Ticks in user and in kernel mode.
    threads: BTreeMap<String, (u64, u64)>,
}

impl Sample {
    /// Takes a sample now; without `/proc` it is empty.
    #[must_use]
    pub fn now() -> Self {
        let mut threads: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let tasks = fs::read_dir("/proc/self/task");
        for task in tasks.into_iter().flatten().flatten() {
            let stat = fs::read_to_string(task.path().join("stat"));
            if let Some((name, user, kernel)) = stat.ok().as_deref().and_then(parse) {
                let ticks = threads.entry(name.to_owned()).or_default();
                ticks.0 += user;
                ticks.1 += kernel;
            }
        }
        Self {
            at: Instant::now(),
            threads,
        }
    }

    /// The shares of one CPU's time that threads took from `self` to `later`;
    /// those that took less than a thousandth are left out.
    #[must_use]
    pub fn shares_until(&self, later: &Self) -> Vec<CpuShare> {
        let ticks = (later.at - self.at).as_secs_f64() * TICKS;
        later
            .threads
            .iter()
            .map(|(name, (user, kernel))| {
                let (user_before, kernel_before) =
                    self.threads.get(name).copied().unwrap_or_default();
                CpuShare {
                    name: name.clone(),
                    user: user.saturating_sub(user_before) as f64 / ticks,
                    kernel: kernel.saturating_sub(kernel_before) as f64 / ticks,
                }
            })
            .filter(|share| share.user + share.kernel >= 0.001)
            .collect()
    }
}

/// Name, user ticks and kernel ticks of a `stat` file. The name is in
/// parentheses and may hold anything, parentheses too.
fn parse(stat: &str) -> Option<(&str, u64, u64)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    // utime and stime are fields 14 and 15; the state, behind the name, is 3.
    let mut fields = rest.split_whitespace().skip(14 - 3);
    Some((
        name,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (cpu) 0 (x) S 1 1 1 0 -1 4194304 100 0 0 0 123 45 0 0 20 0 4 0 99 0 0";
        assert_eq!(parse(stat), Some(("cpu) 0 (x", 123, 45)));
    }

    #[test]
    fn a_busy_thread_is_seen_by_its_name() {
        std::thread::Builder::new()
            .name("busy one".to_owned())
            .spawn(|| {
                let before = Sample::now();
                let begin = Instant::now();
                // How soon it gets processor time is the host's to say.
                loop {
                    (0..50_000_000).for_each(|_| std::hint::spin_loop());
                    let shares = before.shares_until(&Sample::now());
                    let busy = shares.iter().find(|share| share.name == "busy one");
                    if busy.is_some_and(|share| share.user > 0.0) {
                        break;
                    }
                    assert!(begin.elapsed().as_secs() < 60, "{shares:?}");
                }
            })
            .expect("a thread")
            .join()
            .expect("the thread saw itself");
    }
}
