//! Finds the instructions that are reachable from a routine by fall-through and by direct jumps
//! and calls. Tables between functions are not reachable, so they are never mistaken for code.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl};

/// The addresses of the instructions that are reachable from `routine`, in order. `code`
/// returns the code from an address on, if there is any.
pub(super) fn reachable_from<'a>(
    routine: usize,
    code: impl Fn(usize) -> Option<&'a [u8]>,
) -> Vec<usize> {
    let mut reached = BTreeSet::new();
    let mut left = vec![routine];
    while let Some(place) = left.pop() {
        let Some(bytes) = code(place).filter(|_| !reached.contains(&place)) else {
            continue;
        };
        let mut decoder = Decoder::with_ip(64, bytes, place as u64, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            continue;
        }
        let target = instruction.near_branch_target() as usize;
        let next = instruction.next_ip() as usize;
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::IndirectCall => left.push(next),
            FlowControl::Call | FlowControl::ConditionalBranch => left.extend([next, target]),
            FlowControl::UnconditionalBranch => left.push(target),
            FlowControl::Return | FlowControl::IndirectBranch => {}
            // Breakpoints and the like end a path.
            _ => continue,
        }
        reached.insert(place);
    }
    reached.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reachable offsets from the start of `code`.
    fn reached(code: &[u8]) -> Vec<usize> {
        const AT: usize = 0x1000;
        reachable_from(AT, |place| code.get(place.checked_sub(AT)?..))
            .into_iter()
            .map(|place| place - AT)
            .collect()
    }

    #[test]
    fn branches_and_calls_are_followed_and_bytes_between_them_are_not() {
        #[rustfmt::skip]
        let code = [
            0x85, 0xc9,                   // 0: test ecx, ecx
            0x74, 0x06,                   // 2: jz 10
            0xe8, 0x04, 0x00, 0x00, 0x00, // 4: call 13
            0xc3,                         // 9: ret
            0xeb, 0xf8,                   // 10: jmp 4
            0xff,                         // 12: a table
            0xff, 0xe0,                   // 13: jmp rax
            0x90,                         // 15: a table
        ];
        assert_eq!(reached(&code), [0, 2, 4, 9, 10, 13]);
    }

    #[test]
    fn breakpoints_and_the_end_of_the_code_end_a_path() {
        assert_eq!(reached(&[0x90, 0xcc, 0x90]), [0]);
        assert_eq!(reached(&[0x90]), [0]);
        assert_eq!(reached(&[]), [0; 0]);
    }
}
