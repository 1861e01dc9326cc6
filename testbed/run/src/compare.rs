//! `testbed compare`: compares an image with what the verify pass of a run wrote.

use std::{fs::File, io::Write, path::PathBuf};

use clap::value_parser;
use testbed_devices::DiskImageError;

use crate::{
    run::{self, DESCRIBED, RunError, Verdict},
    size::Size,
    verify::{self, VerifyError},
};

/// The image, and the options of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Raw disk image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,

    /// Seed of the run
    #[arg(long, value_name = "NUMBER")]
    pub seed: u64,

    /// How much the run verified
    #[arg(long, value_name = "SIZE")]
    pub verify_bytes: Size,

    /// Length of the disk's logical blocks, a power of two
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = value_parser!(u32).range(512..=4096))]
    pub block_bytes: u32,
}

/// Compares, and prints the mismatches to `out`.
///
/// # Errors
/// The image cannot be read, `--verify-bytes` or `--block-bytes` do not fit it, or the output
/// cannot be written.
pub fn compare(settings: &Settings, out: &mut dyn Write) -> Result<Verdict, RunError> {
    let Settings {
        image,
        seed,
        verify_bytes: Size(bytes),
        block_bytes,
    } = settings;
    let file = File::open(image).map_err(|error| DiskImageError::host(image, error))?;
    let progress = run::progress("comparing {wide_bar} {percent}%");
    let compared = verify::compare(&file, *bytes, *seed, *block_bytes, &progress);
    progress.finish_and_clear();
    let findings = compared.map_err(|error| match error {
        VerifyError::Image(error) => RunError::Host(format!("{}: {error}", image.display())),
        error => RunError::Verify(error),
    })?;
    let count = findings.count();
    writeln!(out, "{} compared, {count} mismatches", Size(*bytes))?;
    for line in findings.describe(DESCRIBED) {
        writeln!(out, "  {line}")?;
    }
    Ok(if count == 0 {
        Verdict::Pass
    } else {
        Verdict::Fail
    })
}
