//! SCSI commands, sense data, INQUIRY, VPD and mode pages for a block device target.
#![no_std]
