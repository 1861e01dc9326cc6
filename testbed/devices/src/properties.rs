//! The settings of a disk from a list of properties, with QEMU's names for them:
//! `packed=on,queue-size=64`.

use std::str::FromStr;

use virtio_bindings::bindings::{
    virtio_blk::VIRTIO_BLK_F_MQ,
    virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED},
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use super::virtio_blk::BlkSettings;

/// The properties that are features.
const FEATURES: [(&str, u32); 4] = [
    ("packed", VIRTIO_F_RING_PACKED),
    ("indirect_desc", VIRTIO_RING_F_INDIRECT_DESC),
    ("event_idx", VIRTIO_RING_F_EVENT_IDX),
    ("iommu_platform", VIRTIO_F_ACCESS_PLATFORM),
];

/// The properties that are numbers, with the largest one.
const NUMBERS: [(&str, u16); 3] = [
    ("num-queues", 1024),
    ("queue-size", 32768),
    ("vectors", 2048),
];

/// A text is not a list of properties.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// There is no property of this name.
    #[error("no property {0:?}: there are {known}", known = known())]
    Unknown(String),
    /// A property is switched to something other than on or off.
    #[error("{property} is on or off, and not {value:?}")]
    NotSwitch {
        /// The property.
        property: &'static str,
        /// What was given.
        value: String,
    },
    /// The value of a property is not a number, or is too large.
    #[error("{property} is a number up to {most}, and not {value:?}")]
    NotNumber {
        /// The property.
        property: &'static str,
        /// The largest number.
        most: u16,
        /// What was given.
        value: String,
    },
    /// There must be a queue.
    #[error("num-queues is at least 1")]
    NoQueue,
    /// The size of a queue is not possible.
    #[error("queue-size is a power of two, and not {0}")]
    QueueSize(u16),
}

fn known() -> String {
    let switches = FEATURES.map(|(name, _)| format!("{name}=on|off"));
    let numbers = NUMBERS.map(|(name, _)| format!("{name}=N"));
    [&switches[..], &numbers].concat().join(", ")
}

/// The settings that the list names. The others have their defaults.
impl FromStr for BlkSettings {
    type Err = PropertyError;

    fn from_str(text: &str) -> Result<Self, PropertyError> {
        let mut settings = Self::default();
        let mut vectors = None;
        for property in text.split(',') {
            let (name, value) = property.split_once('=').unwrap_or((property, "on"));
            if let Some((property, feature)) = FEATURES.iter().find(|it| it.0 == name) {
                settings.features &= !(1 << feature);
                settings.features |= u64::from(switch(property, value)?) << feature;
            } else if let Some((property, most)) = NUMBERS.iter().find(|it| it.0 == name) {
                let number = number(property, *most, value)?;
                match *property {
                    "queue-size" if !number.is_power_of_two() => {
                        return Err(PropertyError::QueueSize(number));
                    }
                    "queue-size" => settings.queue_size = number,
                    "num-queues" if number == 0 => return Err(PropertyError::NoQueue),
                    "num-queues" => settings.queues = number,
                    _ => vectors = Some(number),
                }
            } else {
                return Err(PropertyError::Unknown(name.to_owned()));
            }
        }
        if settings.queues > 1 {
            settings.features |= 1 << VIRTIO_BLK_F_MQ;
        }
        // As in QEMU: one for each queue, and one for the configuration.
        settings.msix_vectors = vectors.unwrap_or(settings.queues + 1);
        Ok(settings)
    }
}

fn switch(property: &'static str, value: &str) -> Result<bool, PropertyError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(PropertyError::NotSwitch {
            property,
            value: value.to_owned(),
        }),
    }
}

fn number(property: &'static str, most: u16, value: &str) -> Result<u16, PropertyError> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| PropertyError::NotNumber {
        property,
        most,
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_change_what_they_name_and_nothing_else() {
        let default = BlkSettings::default();
        let settings: BlkSettings = "packed,event_idx=off,queue-size=16,vectors=1"
            .parse()
            .expect("properties");

        let packed = 1 << VIRTIO_F_RING_PACKED;
        let event_idx = 1 << VIRTIO_RING_F_EVENT_IDX;
        assert_eq!(settings.features, default.features & !event_idx | packed);
        assert_eq!((settings.queue_size, settings.msix_vectors), (16, 1));

        let settings: BlkSettings = "num-queues=4".parse().expect("properties");
        let features = default.features | 1 << VIRTIO_BLK_F_MQ;
        assert_eq!((settings.queues, settings.msix_vectors), (4, 5));
        assert_eq!(settings.features, features);
    }

    #[test]
    fn an_invalid_property_is_named_with_what_is_valid() {
        for (text, error) in [
            ("", "no property \"\": there are packed=on|off"),
            ("packed=on,ats=on", "no property \"ats\""),
            ("packed=yes", "packed is on or off, and not \"yes\""),
            ("queue-size=65536", "queue-size is a number up to 32768"),
            ("vectors=-1", "vectors is a number up to 2048"),
            (
                "queue-size=100",
                "queue-size is a power of two, and not 100",
            ),
            ("queue-size=0", "queue-size is a power of two, and not 0"),
            ("num-queues=0", "num-queues is at least 1"),
        ] {
            let found = text.parse::<BlkSettings>().expect_err(text);
            assert!(found.to_string().starts_with(error), "{found}");
        }
    }
}
