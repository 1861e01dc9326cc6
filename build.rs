//! Makes the cdylib a driver. wdk-build emits the linker arguments and search paths:
//! the published crate on Windows, `cross/wdk-build` on other hosts.

#[path = "src/events.rs"]
#[expect(dead_code, reason = "only codes and texts go into the driver file")]
mod events;
#[path = "build/inx.rs"]
mod inx;

use std::{error::Error, path::Path};

use driver_link::Message;
use events::Event;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo runs build scripts in the package's folder.
    inx::copy_beside_manifest(Path::new(""))?;
    // wdk-build links the libraries that every driver needs. That of storport.sys is not
    // one of them.
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()?;
    let texts: Vec<String> = Event::ALL
        .iter()
        .map(|event| format!("{}\r\n\r\n{}", event.text(), event.remedy()))
        .collect();
    let messages: Vec<Message<'_>> = Event::ALL
        .iter()
        .zip(&texts)
        .map(|(event, text)| Message {
            id: event.code(),
            text,
        })
        .collect();
    Ok(driver_link::configure(&messages)?)
}
