//! The device-specific configuration of a block device, `struct virtio_blk_config` (VIRTIO 1.3
//! §5.2.4), with checks of the driver's accesses.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
};

use crate::{common_config::FEATURES_OK, driver_errors::DriverErrors};

/// The offset of `writeback`, the only field that a driver may write.
pub const WRITEBACK: u64 = 32;

/// A field: offset, width, required feature, name.
type Field = (u64, usize, Option<u32>, &'static str);

/// The fields of the features that this device can offer.
const FIELDS: [Field; 10] = [
    (0, 8, None, "capacity"),
    (8, 4, Some(VIRTIO_BLK_F_SIZE_MAX), "size_max"),
    (12, 4, Some(VIRTIO_BLK_F_SEG_MAX), "seg_max"),
    (20, 4, Some(VIRTIO_BLK_F_BLK_SIZE), "blk_size"),
    (24, 1, Some(VIRTIO_BLK_F_TOPOLOGY), "physical_block_exp"),
    (25, 1, Some(VIRTIO_BLK_F_TOPOLOGY), "alignment_offset"),
    (26, 2, Some(VIRTIO_BLK_F_TOPOLOGY), "min_io_size"),
    (28, 4, Some(VIRTIO_BLK_F_TOPOLOGY), "opt_io_size"),
    (WRITEBACK, 1, Some(VIRTIO_BLK_F_CONFIG_WCE), "writeback"),
    (34, 2, Some(VIRTIO_BLK_F_MQ), "num_queues"),
];

/// The length of the structure up to its last supported field.
const BYTES: usize = 36;

/// The values of the fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlkConfig {
    /// The size of the disk in sectors of 512 bytes.
    pub capacity: u64,
    /// The maximum length of a data segment in bytes.
    pub size_max: u32,
    /// The maximum number of data segments in a request.
    pub seg_max: u32,
    /// The length of a logical block in bytes.
    pub blk_size: u32,
    /// Logical blocks per physical block, as a power of two.
    pub physical_block_exp: u8,
    /// The first aligned logical block.
    pub alignment_offset: u8,
    /// The suggested minimum I/O size in logical blocks.
    pub min_io_size: u16,
    /// The suggested maximum I/O size in logical blocks.
    pub opt_io_size: u32,
    /// Whether written data may stay in a cache until a flush.
    pub writeback: bool,
    /// The number of request queues.
    pub num_queues: u16,
}

impl BlkConfig {
    /// Reads at `offset`. `offered` are the offered features, and `status` is the device
    /// status.
    pub fn read(
        &self,
        offset: u64,
        data: &mut [u8],
        offered: u64,
        status: u8,
        driver_errors: &DriverErrors,
    ) {
        data.fill(0);
        let Some((_, _, feature, name)) = field_at(offset, data.len(), driver_errors) else {
            return;
        };
        // V09.
        if feature.is_some_and(|bit| offered & 1 << bit == 0) {
            driver_errors.add(format!(
                "{name} was read, and the feature that it belongs to is not offered (VIRTIO 1.3 \
                 §2.5.1)"
            ));
            return;
        }
        // V81.
        if *name == "writeback" && status & FEATURES_OK == 0 {
            driver_errors.add("writeback was read before FEATURES_OK (VIRTIO 1.3 §5.2.5.1)");
        }
        let at = offset as usize;
        data.copy_from_slice(&self.bytes()[at..at + data.len()]);
    }

    /// Writes at `offset`. `agreed` are the negotiated features. Returns the new value of
    /// `writeback`, if it was written.
    pub fn written(
        offset: u64,
        data: &[u8],
        agreed: u64,
        status: u8,
        driver_errors: &DriverErrors,
    ) -> Option<bool> {
        let (_, _, _, name) = field_at(offset, data.len(), driver_errors)?;
        if status & FEATURES_OK == 0 {
            driver_errors.add(format!(
                // V12.
                "{name} was written before FEATURES_OK (VIRTIO 1.3 §3.1.1)"
            ));
            return None;
        }
        if *name != "writeback" {
            driver_errors.add(format!(
                "{name} was written, which is read-only (VIRTIO 1.3 §5.2.4)"
            ));
            return None;
        }
        if agreed & 1 << VIRTIO_BLK_F_CONFIG_WCE == 0 {
            driver_errors
                .add("writeback was written without VIRTIO_BLK_F_CONFIG_WCE (VIRTIO 1.3 §5.2.5)");
            return None;
        }
        let value = *data.first()?;
        if value > 1 {
            driver_errors.add(format!(
                "{value} was written to writeback; it must be 0 or 1"
            ));
        }
        Some(value != 0)
    }

    /// The bytes of the structure.
    fn bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..8].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.size_max.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.seg_max.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.blk_size.to_le_bytes());
        bytes[24] = self.physical_block_exp;
        bytes[25] = self.alignment_offset;
        bytes[26..28].copy_from_slice(&self.min_io_size.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.opt_io_size.to_le_bytes());
        bytes[32] = self.writeback.into();
        bytes[34..36].copy_from_slice(&self.num_queues.to_le_bytes());
        bytes
    }
}

/// The field that an access of `bytes` bytes at `offset` names, if the specification allows it.
/// 64-bit fields are accessed in halves (VIRTIO 1.3 §4.1.3.1).
fn field_at(offset: u64, bytes: usize, driver_errors: &DriverErrors) -> Option<&'static Field> {
    let hit = FIELDS.iter().find(|(at, width, _, _)| match width {
        8 => bytes == 4 && (*at == offset || *at + 4 == offset),
        _ => bytes == *width && *at == offset,
    });
    // V61.
    if hit.is_none() {
        driver_errors.add(format!(
            "device configuration: an access of {bytes} bytes at {offset:#x}: no field of this \
             device has that place and width (VIRTIO 1.3 §4.1.3.1)"
        ));
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BlkConfig = BlkConfig {
        capacity: 0x1_2345_6789,
        size_max: 0x1_0000,
        seg_max: 254,
        blk_size: 4096,
        physical_block_exp: 3,
        alignment_offset: 2,
        min_io_size: 8,
        opt_io_size: 256,
        writeback: true,
        num_queues: 4,
    };

    fn read<const N: usize>(offset: u64, offered: u64, driver_errors: &DriverErrors) -> [u8; N] {
        let mut data = [0xee; N];
        CONFIG.read(offset, &mut data, offered, FEATURES_OK, driver_errors);
        data
    }

    #[test]
    fn every_field_reads_at_its_place_and_width() {
        let driver_errors = DriverErrors::default();
        let all = u64::MAX;

        assert_eq!(read(0, all, &driver_errors), 0x2345_6789_u32.to_le_bytes());
        assert_eq!(read(4, all, &driver_errors), 1_u32.to_le_bytes());
        assert_eq!(read(8, all, &driver_errors), 0x1_0000_u32.to_le_bytes());
        assert_eq!(read(12, all, &driver_errors), 254_u32.to_le_bytes());
        assert_eq!(read(20, all, &driver_errors), 4096_u32.to_le_bytes());
        assert_eq!(read(24, all, &driver_errors), [3]);
        assert_eq!(read(25, all, &driver_errors), [2]);
        assert_eq!(read(26, all, &driver_errors), 8_u16.to_le_bytes());
        assert_eq!(read(28, all, &driver_errors), 256_u32.to_le_bytes());
        assert_eq!(read(32, all, &driver_errors), [1]);
        assert_eq!(read(34, all, &driver_errors), 4_u16.to_le_bytes());
        assert_eq!(driver_errors.list(), [""; 0]);
    }

    /// V09.
    #[test]
    fn a_field_of_a_feature_that_is_not_offered_reads_zero_with_a_driver_error() {
        let driver_errors = DriverErrors::default();

        assert_eq!(read(12, 0, &driver_errors), [0; 4]);

        assert!(driver_errors.list()[0].starts_with("seg_max was read"));
    }

    /// V61.
    #[test]
    fn a_field_read_at_another_width_is_a_driver_error() {
        let driver_errors = DriverErrors::default();

        read::<8>(0, u64::MAX, &driver_errors);
        read::<1>(20, u64::MAX, &driver_errors);
        read::<4>(34, u64::MAX, &driver_errors);
        read::<4>(0x400, u64::MAX, &driver_errors);

        assert_eq!(driver_errors.count(), 4);
    }

    /// V81.
    #[test]
    fn writeback_read_before_features_ok_is_a_driver_error() {
        let driver_errors = DriverErrors::default();

        CONFIG.read(WRITEBACK, &mut [0], u64::MAX, 0, &driver_errors);

        assert_eq!(driver_errors.count(), 1);
    }

    /// V12.
    #[test]
    fn only_writeback_can_be_written_and_only_when_agreed() {
        let driver_errors = DriverErrors::default();
        let agreed = 1 << VIRTIO_BLK_F_CONFIG_WCE;
        let write = |offset, data: &[u8], agreed, status| {
            BlkConfig::written(offset, data, agreed, status, &driver_errors)
        };

        assert_eq!(write(WRITEBACK, &[0], agreed, FEATURES_OK), Some(false));
        assert_eq!(write(WRITEBACK, &[1], agreed, FEATURES_OK), Some(true));
        assert_eq!(driver_errors.list(), [""; 0]);

        assert_eq!(write(WRITEBACK, &[1], 0, FEATURES_OK), None);
        assert_eq!(write(WRITEBACK, &[1], agreed, 0), None);
        assert_eq!(write(20, &[0; 4], agreed, FEATURES_OK), None);
        assert_eq!(driver_errors.count(), 3);
    }
}
