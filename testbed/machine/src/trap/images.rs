//! The loaded drivers, for messages. Signal handlers read them.

use std::{
    ptr,
    sync::{Arc, OnceLock},
};

use testbed_loader::Image;

static IMAGES: [OnceLock<Arc<Image>>; 8] = [const { OnceLock::new() }; 8];

/// Lets messages report an address in `image` by its name and offset. Only the first eight
/// images of a process are recorded.
pub fn watch(image: &Arc<Image>) {
    if all().any(|known| ptr::eq(known, &raw const **image)) {
        return;
    }
    let _ = IMAGES
        .iter()
        .find(|place| place.set(Arc::clone(image)).is_ok());
}

fn all() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter_map(|place| Some(&**place.get()?))
}

/// The image of the first driver.
pub fn driver_image() -> Option<&'static Image> {
    all().next()
}

/// The image that contains `address`, and the offset in it.
pub(super) fn of(address: usize) -> Option<(&'static Image, u32)> {
    all().find_map(|image| Some((image, image.offset_of(address)?)))
}
