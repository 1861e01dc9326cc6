//! Whether the device needs a notification: a pure function of positions in the ring, the
//! same for both kinds of ring (VIRTIO 1.3 §2.7.10, 2.8.10).
//!
//! A position counts the entries that were published in a split ring, or the descriptors in a
//! packed ring. Only its bits in the position mask count. In a split ring these are all 16 bits.
//! In a packed ring they are the index and, above it, the inverted wrap counter.

/// How the device suppresses notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSuppression {
    /// It suppresses none.
    None,
    /// It suppresses all of them.
    All,
    /// It wants one notification, once the entry at this position is published. Only with
    /// `EVENT_IDX`.
    Until(u16),
}

/// Returns whether the device needs a notification after the driver published the entries
/// from position `before` up to `now`. Only the bits of a position in `position_mask` count.
///
/// ```
/// use virtio::queue::notification::{NotificationSuppression, notification_needed};
///
/// let wants_entry_7 = NotificationSuppression::Until(7);
/// assert!(notification_needed(wants_entry_7, 7, 8, 0xFFFF));
/// assert!(!notification_needed(wants_entry_7, 8, 9, 0xFFFF));
/// ```
#[inline]
#[must_use]
pub const fn notification_needed(
    suppression: NotificationSuppression,
    before: u16,
    now: u16,
    position_mask: u16,
) -> bool {
    let published = now.wrapping_sub(before) & position_mask;
    match suppression {
        NotificationSuppression::None => published > 0,
        NotificationSuppression::All => false,
        // Whether the entry is one of those published since `before`.
        NotificationSuppression::Until(entry) => {
            entry.wrapping_sub(before) & position_mask < published
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// The specification's rule, one entry at a time: a notification is needed when the
    /// entry at the position `event` is published.
    fn notified_one_by_one(event: u16, before: u16, published: u16, mask: u16) -> bool {
        (0..published).any(|step| before.wrapping_add(step) & mask == event & mask)
    }

    /// V41, and the same of a packed ring: every position of the ring before every event.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn the_device_is_notified_of_the_entry_that_it_waits_for_over_all_wraps() {
        for log in 1..=16 {
            let mask = (1_u32 << log).wrapping_sub(1) as u16;
            for before in 0..=mask {
                for published in [0, 1, 2, 255, 256, 32768] {
                    let now = before.wrapping_add(published) & mask;
                    for distance in [0, 1, 2, 255, 256, 32767, 32768, 65534, 65535] {
                        let event = before.wrapping_add(distance) & mask;
                        assert_eq!(
                            notification_needed(
                                NotificationSuppression::Until(event),
                                before,
                                now,
                                mask
                            ),
                            distance & mask < published & mask,
                            "event {event} before {before} now {now} of {mask}"
                        );
                    }
                }
            }
        }
    }

    /// V41.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn notifications_of_a_batch_are_those_of_its_single_entries() {
        for mask in [0xFFFF, 0x1FF, 1] {
            for before in [0, 1, 32767, 65530, 65535] {
                for published in [0, 1, 3, 16] {
                    if published > mask {
                        continue;
                    }
                    for event in 0..=u16::MAX {
                        assert_eq!(
                            notification_needed(
                                NotificationSuppression::Until(event),
                                before,
                                before.wrapping_add(published),
                                mask
                            ),
                            notified_one_by_one(event, before, published, mask)
                        );
                    }
                }
            }
        }
    }

    /// V40.
    #[test]
    fn without_events_each_publication_needs_a_notification_or_none_does() {
        for (suppression, needed) in [
            (NotificationSuppression::None, true),
            (NotificationSuppression::All, false),
        ] {
            assert_eq!(notification_needed(suppression, 65535, 0, 0xFFFF), needed);
            assert!(
                !notification_needed(suppression, 7, 7, 0xFFFF),
                "nothing was published"
            );
        }
    }
}
