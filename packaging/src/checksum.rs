//! The checksum of a PE file, which Windows checks when it loads a driver.

/// The checksum of `image`: the sum of its 16-bit words with end-around carry, plus its length.
/// The four bytes at `field`, the checksum's offset in the
/// file, count as zero.
///
/// It is what `CheckSumMappedFile` of imagehlp.dll computes.
#[must_use]
pub fn of_image(image: &[u8], field: usize) -> u32 {
    let own = field..field.saturating_add(4);
    let byte = |index: usize| match image.get(index) {
        Some(byte) if !own.contains(&index) => u32::from(*byte),
        _ => 0,
    };
    let sum = (0..image.len()).step_by(2).fold(0, |sum, index| {
        let sum = sum + (byte(index) | byte(index + 1) << 8);
        (sum & 0xffff) + (sum >> 16)
    });
    // The format limits an image to 32 bits.
    sum.wrapping_add(image.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_outside_of_the_field_are_summed_up_with_their_carries_and_the_length() {
        // ffff + 0002 = 1_0001, whose carry makes it 0002.
        assert_eq!(of_image(&[0xff, 0xff, 2, 0], 4), 2 + 4);
        assert_eq!(of_image(&[1, 0, 9, 9, 9, 9, 2, 0], 2), 3 + 8);
        // A last odd byte is the low one of its word.
        assert_eq!(of_image(&[1, 1, 1], 100), 0x0102 + 3);
    }
}
