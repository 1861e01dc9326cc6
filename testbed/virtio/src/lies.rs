//! False values of registers, which a test sets.

/// What the common configuration registers do wrong.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// FEATURES_OK is cleared when the driver sets it.
    pub refuses_features: bool,
    /// `config_generation` changes after each read of it.
    pub generation_runs: bool,
    /// Registers that read as another value, by offset. The device works with the right
    /// values.
    pub reads: Vec<(u64, u32)>,
}

/// Replaces the data of a read at `offset` if `reads` has another value for it.
pub fn replace(reads: &[(u64, u32)], offset: u64, data: &mut [u8]) {
    if let Some((_, value)) = reads.iter().find(|(at, _)| *at == offset) {
        for (byte, wrong) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = wrong;
        }
    }
}
