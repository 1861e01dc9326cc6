//! System worker threads, for PASSIVE_LEVEL work that may wait. Each job has a thread of its
//! own, so that no job waits for another.

use std::{collections::VecDeque, io, sync::Mutex};

use crate::{
    cpu::{self, Job},
    lock,
    schedule::{self, Condition},
};

#[derive(Default)]
pub(super) struct Workers {
    waiting: Mutex<Waiting>,
    more: Condition,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    idle: usize,
}

impl Workers {
    /// Runs `job` soon, for the CPU of the calling thread.
    pub(super) fn run(&'static self, job: Job) -> io::Result<()> {
        let number = cpu::current_number();
        let mut waiting = lock(&self.waiting);
        waiting.jobs.push_back(Box::new(move || {
            cpu::act_for(number);
            job();
        }));
        if waiting.idle >= waiting.jobs.len() {
            self.more.changed();
            return Ok(());
        }
        // `spawn` passes a scheduling point, so the mutex must be free.
        drop(waiting);
        let spawned = schedule::spawn("system worker", move || self.serve());
        if let Err(refused) = spawned {
            lock(&self.waiting).jobs.pop_back();
            return Err(refused);
        }
        Ok(())
    }

    fn serve(&self) {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                drop(waiting);
                let turn = cpu::take_turn();
                job();
                drop(turn);
                waiting = lock(&self.waiting);
            } else {
                waiting.idle += 1;
                waiting = self.more.wait(&self.waiting, waiting, None, "work");
                waiting.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_job_may_wait_for_one_that_was_given_after_it() {
        let workers: &'static Workers = Box::leak(Box::default());
        let (first_send, first) = mpsc::channel();
        let (second_send, second) = mpsc::channel::<u32>();

        workers
            .run(Box::new(move || {
                first_send.send(second.recv().unwrap() + 1).unwrap();
            }))
            .unwrap();
        workers
            .run(Box::new(move || second_send.send(1).unwrap()))
            .unwrap();

        assert_eq!(first.recv().unwrap(), 2);
    }
}
