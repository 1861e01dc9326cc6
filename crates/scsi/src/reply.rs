//! The data that answers a command. [`Reply::write_to`] alone cuts it to size.

use core::slice::IterMut;

use crate::disk::Disk;
use crate::sense::Sense;
use crate::{capacity, inquiry, luns, mode, request_sense, vpd};

/// The data that answers a command, before it is written to the initiator's buffer.
///
/// All checks are done before a reply is made, so writing it cannot fail.
#[derive(Clone, Copy, Debug)]
#[must_use = "the initiator waits for the data"]
pub struct Reply<'d> {
    pub(crate) disk: &'d Disk,
    pub(crate) content: Content,
    /// The maximum number of bytes that the initiator accepts: ALLOCATION LENGTH.
    pub(crate) allocation: u32,
}

/// The kind of data of a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Inquiry(inquiry::Peripheral),
    Vpd(inquiry::Peripheral, vpd::Page),
    Capacity10,
    Capacity16,
    Mode(mode::Request),
    Luns(luns::Select),
    Sense(request_sense::Format, Sense),
}

impl Reply<'_> {
    /// Writes the data to the beginning of `buffer`, cut to the allocation length and to the
    /// buffer. Returns how many bytes it wrote. Does not change later bytes of the buffer.
    pub fn write_to(self, buffer: &mut [u8]) -> usize {
        let allocation = usize::try_from(self.allocation).unwrap_or(usize::MAX);
        let end = allocation.min(buffer.len());
        let mut out = Writer::new(buffer.get_mut(..end).unwrap_or_default());
        match self.content {
            Content::Inquiry(peripheral) => inquiry::write(self.disk, peripheral, &mut out),
            Content::Vpd(peripheral, page) => vpd::write(self.disk, peripheral, page, &mut out),
            Content::Capacity10 => capacity::write_10(self.disk, &mut out),
            Content::Capacity16 => capacity::write_16(self.disk, &mut out),
            Content::Mode(request) => mode::write(self.disk, request, &mut out),
            Content::Luns(select) => luns::write(select, &mut out),
            Content::Sense(format, sense) => request_sense::write(format, sense, &mut out),
        }
        out.written()
    }
}

/// Appends bytes to a buffer. Bytes that do not fit are dropped.
pub(crate) struct Writer<'b> {
    free: IterMut<'b, u8>,
    length: usize,
}

impl<'b> Writer<'b> {
    pub(crate) fn new(buffer: &'b mut [u8]) -> Self {
        Self {
            length: buffer.len(),
            free: buffer.iter_mut(),
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        // `bytes` comes first in the `zip`. Otherwise its end would consume one more place.
        for (byte, place) in bytes.iter().zip(self.free.by_ref()) {
            *place = *byte;
        }
    }

    pub(crate) fn put_zeros(&mut self, count: usize) {
        for place in self.free.by_ref().take(count) {
            *place = 0;
        }
    }

    /// How many bytes were written.
    pub(crate) fn written(&self) -> usize {
        self.length.saturating_sub(self.free.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_appended_until_the_buffer_is_full() {
        let mut buffer = [0xEE; 6];
        let mut out = Writer::new(&mut buffer);
        out.put(&[1, 2]);
        out.put(&[]);
        out.put_zeros(1);
        assert_eq!(out.written(), 3);
        out.put(&[3, 4, 5, 6]);
        out.put_zeros(9);
        out.put(&[7]);
        assert_eq!(out.written(), 6);
        assert_eq!(buffer, [1, 2, 0, 3, 4, 5]);
    }

    #[test]
    fn nothing_is_appended_to_an_empty_buffer() {
        let mut out = Writer::new(&mut []);
        out.put(&[1]);
        out.put_zeros(1);
        assert_eq!(out.written(), 0);
    }
}
