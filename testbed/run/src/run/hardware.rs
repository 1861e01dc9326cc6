//! The PCI function of a run, and the image file of its disk.

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use super::{FunctionKind, RunError, Settings, used_image};
use crate::size::Size;
use testbed_devices::{
    Bell, BlkSettings, DeviceId, DiskImage, DiskImageError, Vfio, VfioError, VirtioBlk,
};
use testbed_machine::{InterruptKind, Machine, pci::PciFunction};

/// The open image file.
pub(super) struct DiskFile {
    /// The file as the device uses it.
    pub(super) image: DiskImage,
    /// The file as the verify pass reads it.
    contents: File,
    name: String,
    /// The file that [`Mark`] marks. `None` for a temporary image.
    to_mark: Option<File>,
}

/// Marks the image on drop, at the end of a run that may have written to it.
struct Mark(File);

impl Drop for Mark {
    fn drop(&mut self) {
        // Another user's file cannot be marked: the next run refuses it.
        let _ = used_image::mark(&self.0);
    }
}

impl DiskFile {
    pub(super) fn open(settings: &Settings) -> Result<Self, RunError> {
        match &settings.disk {
            Some(path) => {
                let image = DiskImage::open(path)?;
                let host = |error| DiskImageError::host(path, error);
                let contents = File::open(path).map_err(host)?;
                if !settings.overwrite {
                    let progress = super::progress("checking the image {wide_bar} {percent}%");
                    let foreign = used_image::first_foreign(&contents, &progress);
                    progress.finish_and_clear();
                    if let Some(at) = foreign.map_err(host)? {
                        return Err(RunError::Used {
                            path: path.clone(),
                            at,
                        });
                    }
                }
                let name = path.display().to_string();
                let mark = contents.try_clone().map_err(host)?;
                Ok(Self {
                    image,
                    contents,
                    name,
                    to_mark: Some(mark),
                })
            }
            None => {
                let (image, contents) = temporary_image(settings.size.0)?;
                Ok(Self {
                    image,
                    contents,
                    name: "temporary image".to_owned(),
                    to_mark: None,
                })
            }
        }
    }
}

/// The PCI function and its image file.
pub(super) struct Hardware {
    pub(super) function: Arc<dyn PciFunction>,
    /// The same function, if it is a virtio disk.
    pub(super) device: Option<Arc<VirtioBlk>>,
    description: String,
    /// The disk's name in the output.
    pub(super) disk_name: String,
    /// The image file, to compare with, if the testbed has it.
    pub(super) contents: Option<File>,
    _mark: Option<Mark>,
}

impl Hardware {
    /// Makes the function of `settings`. `disk` is the image file of a virtio disk.
    ///
    /// # Errors
    /// A function of the host cannot be used.
    pub(super) fn new(
        settings: &Settings,
        machine: &Machine,
        disk: Option<DiskFile>,
    ) -> Result<Self, VfioError> {
        if let FunctionKind::Vfio(address) = &settings.function {
            return Ok(Self {
                function: Vfio::open(address, machine.memory())?,
                device: None,
                description: format!("function {address} of this host, by VFIO"),
                disk_name: "the device's own".to_owned(),
                contents: None,
                _mark: None,
            });
        }
        let description = match (&disk, settings.device_id) {
            (None, _) => "bell, PCI 1234:BE11",
            (_, DeviceId::Modern) => "virtio-blk, PCI 1AF4:1042 (modern)",
            (_, DeviceId::Transitional) => "virtio-blk, PCI 1AF4:1001 (transitional)",
        };
        let (image, disk_name, contents, to_mark) = match disk {
            Some(disk) => (
                Some(disk.image),
                disk.name,
                Some(disk.contents),
                disk.to_mark,
            ),
            None => (None, "the driver's memory".to_owned(), None, None),
        };
        let blk = BlkSettings {
            device_id: settings.device_id,
            serial: "TESTBED".to_owned(),
            ..*settings.device.clone().unwrap_or_default()
        };
        let (function, device) = function(machine, image, blk);
        Ok(Self {
            function,
            device,
            description: description.to_owned(),
            disk_name,
            contents,
            _mark: to_mark.map(Mark),
        })
    }

    /// How many queues of the disk the driver uses, for the output.
    pub(super) fn queues(&self) -> String {
        match self.device.as_ref().map(|device| device.live_queues()) {
            None => String::new(),
            Some(1) => "1 queue, ".to_owned(),
            Some(count) => format!("{count} queues, "),
        }
    }

    /// How many requests each queue of the disk has served.
    pub(super) fn queue_requests(&self) -> Vec<u64> {
        let device = self.device.as_ref();
        device.map_or_else(Vec::new, |device| device.queue_requests())
    }

    /// Prints the machine, the function and the image.
    pub(super) fn print(&self, settings: &Settings, out: &mut dyn Write) -> io::Result<()> {
        let (cpus, memory) = (settings.cpus, settings.memory);
        let interrupts = match settings.interrupts {
            InterruptKind::Messages => format!("MSI-X, {} vectors", self.function.msix_vectors()),
            InterruptKind::Line => "INTx".to_owned(),
        };
        writeln!(out, "machine   {cpus} CPUs, {memory} of memory")?;
        writeln!(out, "device    {}, {interrupts}", self.description)?;
        match &self.contents {
            Some(contents) => {
                let bytes = Size(contents.metadata()?.len());
                writeln!(out, "image     {}, {bytes}", self.disk_name)
            }
            None => writeln!(out, "image     none: {}", self.disk_name),
        }
    }
}

/// Makes the PCI function of a machine: a virtio disk on `image`, or without an image the bell,
/// with one message for each CPU.
pub(crate) fn function(
    machine: &Machine,
    image: Option<DiskImage>,
    settings: BlkSettings,
) -> (Arc<dyn PciFunction>, Option<Arc<VirtioBlk>>) {
    match image {
        Some(image) => {
            let disk = VirtioBlk::new(image, machine.memory().guest().clone(), settings);
            (disk.clone(), Some(disk))
        }
        None => {
            let messages = u16::try_from(machine.cpus().len()).unwrap_or(u16::MAX);
            (Bell::new(messages), None)
        }
    }
}

/// A temporary image cannot be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make a temporary image in {}: {why}; name another folder with the environment variable \
     TMPDIR",
    std::env::temp_dir().display()
)]
pub struct TemporaryImageError {
    why: String,
}

/// Makes a disk image that is deleted when it is closed. Returns it for the device, and as a
/// file to read.
pub(crate) fn temporary_image(bytes: u64) -> Result<(DiskImage, File), TemporaryImageError> {
    let host = |error: io::Error| TemporaryImageError {
        why: error.to_string(),
    };
    // The folder and the image are deleted now. The open file remains until it is closed, so
    // nothing is left even after a crash.
    let folder = tempfile::tempdir().map_err(host)?;
    let path = folder.path().join("disk.img");
    let image = DiskImage::create(&path, bytes).map_err(|error| TemporaryImageError {
        why: error.to_string(),
    })?;
    let contents = File::open(&path).map_err(host)?;
    folder.close().map_err(host)?;
    Ok((image, contents))
}
