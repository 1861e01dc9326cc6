//! The drivers that messages can name. Entries are never freed: a signal
//! handler may be reading them.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

use testbed_loader::Image;

static IMAGES: [AtomicPtr<Image>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];

/// Makes `image` known to crash messages: an address in it is reported as
/// its name and offset. The first eight of a process are.
pub fn watch(image: &Arc<Image>) {
    if all().any(|known| ptr::eq(known, &raw const **image)) {
        return;
    }
    let entry = Arc::into_raw(Arc::clone(image)).cast_mut();
    let _ = IMAGES.iter().find(|place| {
        place
            .compare_exchange(ptr::null_mut(), entry, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    });
}

fn all() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter_map(|place| {
        let entry = place.load(Ordering::Acquire);
        // SAFETY: what is in the table is an `Arc` that `watch` never gives
        // back.
        unsafe { entry.as_ref() }
    })
}

/// The driver's image.
pub fn driver_image() -> Option<&'static Image> {
    all().next()
}

/// The image that `address` lies in, and where.
pub(super) fn of(address: usize) -> Option<(&'static Image, u32)> {
    all().find_map(|image| Some((image, image.offset_of(address)?)))
}
