//! Space at the journal's end that is written ahead, on Linux.
//!
//! Where a write makes a file longer, or fills a hole of it, a sync writes the file
//! system's metadata too, which takes half as long again as the bytes alone. So
//! zeros are written ahead of the journal's end, enough for many batches, and the
//! next sync takes them along.
//!
//! No batch can be harmed: nobody else writes to the journal at that moment, and
//! zeros are put only where zeros are read, whatever a file system tells of holes.
//! Without preallocation everything works as well, and takes longer.

use super::journals;
use crate::platform::descriptors;
use rustix::fs::{OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, seek};
use rustix::io::Errno;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The length of a new journal with nothing in it.
pub const NEW_BYTES: u64 = 64 << 20;

/// The database begins another journal at a flush, once it has written to this place.
const END: u64 = 64_000_001;

/// The longest wait for another journal, and the time between two looks for it.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(5);
const BEGIN_WAIT: Duration = Duration::from_millis(1);

/// The zeros that are written at once.
const AHEAD_BYTES: u64 = 256 << 10;

/// A batch from this size on is not worth it: it would be written twice.
const BATCH_BYTES_MAX: u64 = 64 << 10;

/// About the bytes of a batch in the journal beside its items, and of an item
/// beside its value.
const BATCH_BYTES: u64 = 32;
const ITEM_BYTES: u64 = 48;

/// The space at the journal's end that is written ahead, as far as is known.
#[derive(Default)]
pub struct Preallocation {
    left_bytes: u64,
}

impl Preallocation {
    /// Has the database write to a journal that it has opened again, in the
    /// folder `data`, in the way of a new one: it only ever appends to it, and
    /// so makes it longer each time. Nobody may write to it meanwhile.
    pub fn begin(data: &Path) -> Self {
        if let Err(err) = write_in_place(data) {
            log::debug!("the journal is appended to: {err}");
        }
        Self::default()
    }

    /// Makes space for a batch of so many items, with changes of so many bytes,
    /// in the newest journal. Writes to the disk now and then and syncs
    /// nothing. Nobody else may write to the journal meanwhile.
    pub fn prepare(&mut self, data: &Path, items: usize, bytes: usize) {
        let bytes = bytes as u64 + items as u64 * ITEM_BYTES + BATCH_BYTES;
        if bytes > self.left_bytes && bytes < BATCH_BYTES_MAX {
            // If the disk fails, so does the batch.
            if let Err(err) = extend(data) {
                log::debug!("the journal is not written ahead: {err}");
            }
            self.left_bytes = AHEAD_BYTES;
        }
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
    }
}

/// Has the database begin another journal with a flush, which `seal` has it begin: by the
/// place in the newest one. Nobody may write to that meanwhile. Blocks until the other one
/// is there, for some seconds at most.
pub fn end_journal<E: From<io::Error>>(
    data: &Path,
    seal: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let Some(journal) = journals(data)?.pop() else { return seal() };
    let Some(file) = opened(&journal, is_written)? else { return seal() };
    // The place is that of the database's descriptor too.
    let place = seek(&file, SeekFrom::Current(0)).map_err(io::Error::from)?;
    seek(&file, SeekFrom::Start(END.max(place))).map_err(io::Error::from)?;
    let sealed = seal();
    let begun = Instant::now();
    while sealed.is_ok() && journals(data)?.pop().as_ref() == Some(&journal) {
        if begun.elapsed() > BEGIN_WAIT_MAX {
            break;
        }
        thread::sleep(BEGIN_WAIT);
    }
    // Nothing is written to it any more, unless it is the newest still.
    seek(&file, SeekFrom::Start(place)).map_err(io::Error::from)?;
    sealed
}

/// Writes zeros to the hole at the end of the newest journal. There may be
/// others: a value of zeros is one once the file was copied.
fn extend(data: &Path) -> io::Result<()> {
    let Some(journal) = journals(data)?.pop() else { return Ok(()) };
    let file = File::options().read(true).write(true).open(journal)?;
    let end = end_of_data(&file)?;
    let bytes = file.metadata()?.len().saturating_sub(end).min(AHEAD_BYTES);
    let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let mut held = zeros.clone();
    file.read_exact_at(&mut held, end)?;
    if held != zeros {
        return Err(unclear());
    }
    file.write_all_at(&zeros, end)
}

/// The beginning of a file's last hole; without one, its end.
fn end_of_data(file: &File) -> io::Result<u64> {
    let mut end = 0;
    loop {
        let hole = match seek(file, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return Ok(end),
            data => seek(file, SeekFrom::Hole(data?))?,
        };
        if hole <= end {
            return Err(unclear());
        }
        end = hole;
    }
}

fn unclear() -> io::Error {
    io::Error::other("the file system does not tell where it ends")
}

/// Makes a journal that is appended to as long as a new one, and has it be
/// written to from where it ended.
fn write_in_place(data: &Path) -> io::Result<()> {
    let Some(journal) = journals(data)?.pop() else { return Ok(()) };
    let Some(file) = opened(&journal, is_appended)? else { return Ok(()) };
    // The place and the flags are those of the database's descriptor too.
    let end = seek(&file, SeekFrom::End(0))?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::APPEND)?;
    file.set_len(end.max(NEW_BYTES))
}

fn is_appended(flags: OFlags) -> bool {
    flags.contains(OFlags::APPEND)
}

fn is_written(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}

/// The file that the database has opened in some way to write to `journal`.
fn opened(journal: &Path, is_so: impl Fn(OFlags) -> bool) -> io::Result<Option<File>> {
    let wanted = fs::metadata(journal)?;
    let is_it = |it: Metadata| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino());
    for entry in fs::read_dir(descriptors::LIST)? {
        let entry = entry?;
        // Nothing else is duplicated: it may be a lock, and be held by that.
        if !fs::metadata(entry.path()).is_ok_and(is_it) {
            continue;
        }
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(Ok(descriptor)) = number.map(descriptors::duplicate) else { continue };
        let file = File::from(descriptor);
        if file.metadata().is_ok_and(is_it) && fcntl_getfl(&file).is_ok_and(&is_so) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}
