//! Makes the cdylib a driver. wdk-build gives linker arguments and search paths:
//! the published one on Windows, `cross/wdk-build` elsewhere.

#[path = "src/events.rs"]
#[expect(dead_code, reason = "only codes and texts go into the driver file")]
mod events;
#[path = "build/inx.rs"]
mod inx;

use std::{error::Error, path::Path};

use driver_link::Message;
use events::Event;

fn main() -> Result<(), Box<dyn Error>> {
    // The package's folder: cargo runs build scripts in it.
    inx::bring_beside_manifest(Path::new(""))?;
    // wdk-build links the libraries that every driver needs; storport.sys's is not
    // among them.
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
