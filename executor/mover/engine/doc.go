// Package engine copies the files of a volume, or a raw device, through a
// repository in an object store: it is what the mover's Job runs. The kopia library is the repository
// engine (chunking, deduplication, encryption, packing); the walk of the source,
// the format of a directory and the walk of the target are our own, because the
// library's uploader and restorer lose changes.
//
// # Upload
//
// One snapshot holds regular files, directories, symbolic links and FIFOs with
// size, mode, owner, modification time in nanoseconds, extended attributes
// (POSIX ACLs and file capabilities among them) and hard-link groups, and the
// names of sockets. Devices are not copied and are reported as warnings. Nothing else is left
// out: there are no ignore files and no CACHEDIR.TAG rule. Only `lost+found` at
// the root of a volume belongs to its file system and stays where it is.
//
// A file counts as unchanged only if size, modification time, change time and
// inode equal what the parent snapshot recorded AND its change time is older
// than the start of that snapshot by a margin. Before the walk the source's file
// system is synced (syncfs changes no file): a page that a program wrote through
// mmap is clean from then on, so that its next store moves the change time. The
// source is only read, with O_NOATIME where the kernel allows it.
//
// A file is the list of its pieces. Pieces within a hole (SEEK_DATA, SEEK_HOLE) are
// neither read nor hashed: they are the piece of zeros, which is stored once. What
// moves while a live source is read is read again up to three times and then
// reported; after the stop it is an error.
//
// Directory objects are kopia directory manifests with one more field per entry
// ("tranship"), which stock kopia ignores: a repository can be read without us.
//
// # Restore
//
// The wanted snapshot is walked entry by entry against the one that the target
// holds and against an lstat of the target. Content is trusted only where the
// target's type, size and modification time are those of the held snapshot;
// elsewhere, and everywhere with Content set or Held unknown, the target's bytes
// are hashed piece by piece and compared with the repository's piece names. All
// paths are one component under a directory descriptor, opened by openat2 with
// RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: a planted link is never followed.
//
// A file of several pieces (128 KiB each) is changed in place, and only in the
// pieces that differ: by the lists of both snapshots where the record is trusted,
// by the bytes otherwise. A piece of zeros becomes a hole. Nobody else uses the
// file: the claim is a staging claim of our own, and an inode that the target
// shares with a path that is another file in the snapshot is left to the first of
// them. A mover that is killed half-way leaves a file that is neither the old nor
// the new one; the claim's mark, written before the mover starts, makes the next
// run compare by content, and each write moved the file's time away from both
// records, for the wanted time is set last. Smaller files are written beside and
// renamed.
//
// A pack of the store of which most is wanted is fetched with one request;
// scattered pieces are fetched one by one, as many at once as the run allows.
//
// # Devices
//
// A volume of mode Block is copied as one sequence of bytes. Its snapshot is a
// directory of extents, files named by where they begin in the device. The upload
// reads all of it past the page cache, for a device does not tell what changed;
// stretches of zeros are hashed once. The restore writes the pieces that differ from
// those of the held snapshot or, where that is not trusted, from what the device has,
// and makes the rest of a larger device read as zeros. The device is opened
// exclusively, and synced before the run ends.
//
// # Standing still
//
// A slow copy goes on; one in which nothing at all moves for StallLimit ends with
// CopyStalled. What moves is counted where it does: bytes of a volume as they are
// read, compared and written, bytes of an object as the network takes and brings
// them, parts of a window between two movers, names of listings, entries that are
// looked at. A word that there is nothing to say does not count. A receiver waits
// for its sender, which has the limit, and has one of its own when all has come. A
// sync shows nothing of what it does and has SyncLimit. A task that hangs in the
// kernel cannot be ended: the log goes on saying how long, and whoever waits for
// the mover has a deadline (cutover.copyTimeout). Opening the repository and its
// maintenance come before and after the copy: the one has the same deadline, the
// other ends after maintenanceLimit at the latest and harms nothing.
//
// # Repository
//
// Nothing but ensureRepository creates one. It builds the format blob in memory
// and stores it with a conditional PUT (If-None-Match: *), then reads it back:
// of two movers that start at once one creates, the other uses what it finds. On
// a store that answers NotImplemented the write is guarded by a look before and
// a read-back after it only. Credentials reach the library through a memory
// file, so that no secret touches a disk.
package engine
