//! The loaded drivers, for messages. Entries are never freed, because a signal handler may be
//! reading them.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

use testbed_loader::Image;

static IMAGES: [AtomicPtr<Image>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];

/// Lets messages report an address in `image` by its name and offset. Only the first eight
/// images of a process are recorded.
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
        // SAFETY: each entry is an `Arc` that `watch` leaked.
        unsafe { entry.as_ref() }
    })
}

/// The image of the first driver.
pub fn driver_image() -> Option<&'static Image> {
    all().next()
}

/// The image that contains `address`, and the offset in it.
pub(super) fn of(address: usize) -> Option<(&'static Image, u32)> {
    all().find_map(|image| Some((image, image.offset_of(address)?)))
}
