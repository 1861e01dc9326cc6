//! Dump mode: no lock is taken, no DPC is queued, and Storport polls the interrupt routine
//! (storport-rules.md D3, D5, D8).

use ferrostor_models::port::{Adapter, Driver, Interrupts, Machine, Shape};

use crate::{
    miniport::{Keeper, opcode},
    requests::scsi,
};

#[test]
fn a_dump_is_written_without_locks_and_dpcs() {
    let machine = Machine {
        interrupts: Interrupts::Messages(2),
        channels: 0,
        dump: true,
    };
    let adapter = Adapter::new(&Driver::load_for_dump::<Keeper>(), machine);
    adapter.start();
    for round in 0..4 {
        let shape = [Shape::Scsi, Shape::Storage][round % 2];
        let answer = adapter.send(0, &scsi(shape, opcode::QUEUED, 1));
        // Bus resets have no effect (storport-rules.md D4).
        adapter.reset_bus();
        assert!(answer.get().is_none());
        assert!(adapter.interrupt());
        assert_eq!(answer.get().map(|done| done.length), Some(5));
    }
}
