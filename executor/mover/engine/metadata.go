package engine

import "golang.org/x/sys/unix"

// finishDir gives a directory its metadata, after everything in it was done.
func (r *restorer) finishDir(d *dir, want, was *node, rel string) error {
	changed, err := r.fixFD(d.fd, want, was == nil || !was.attrs.equal(want.attrs), rel)
	return r.counted(want, rel, changed, err)
}

// counted counts an entry that was there and got other metadata.
func (r *restorer) counted(want *node, rel string, changed bool, err error) error {
	if changed {
		r.writes.add(rel, want)
		r.count.changedMeta.Add(1)
	}
	return err
}

// fixOpened gives a file or a FIFO that is there its metadata. It is opened only if something
// differs, which the record and the lstat say.
func (r *restorer) fixOpened(d *dir, want, was *node, have *unix.Stat_t, rel string) (bool, error) {
	attrs := was == nil || !was.attrs.equal(want.attrs)
	if !attrs && !ownerDiffers(have, want) && !modeDiffers(have, want) && timeKept(have, want, was) {
		return false, nil
	}
	f, err := openFile(d, want.name, rel)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return r.fixFD(int(f.Fd()), want, attrs, rel)
}

// timeKept says whether the time on the target is the wanted one, as far as its file system can
// keep it. Only a record that has the same time proves that a rounded one is not another time.
func timeKept(have *unix.Stat_t, want, was *node) bool {
	if have.Mtim == want.mtime {
		return true
	}
	return was != nil && was.mtime == want.mtime && roundedTo(have.Mtim, want.mtime)
}

func ownerDiffers(have *unix.Stat_t, want *node) bool {
	return have.Uid != want.uid || have.Gid != want.gid
}
func modeDiffers(have *unix.Stat_t, want *node) bool { return have.Mode&0o7777 != want.perm }

// fixFD gives an open entry its owner, mode, attributes and time, in this order: a change of owner
// takes the setuid bit and the capabilities away, a change of anything moves the time of change.
func (r *restorer) fixFD(fd int, want *node, attrs bool, rel string) (changed bool, err error) {
	var have unix.Stat_t
	if err := unix.Fstat(fd, &have); err != nil {
		return false, targetFailed(err, "look at", rel)
	}
	owner := ownerDiffers(&have, want)
	if owner {
		if err := unix.Fchown(fd, int(want.uid), int(want.gid)); err != nil {
			return false, targetFailed(err, "change the owner of", rel)
		}
	}
	if owner || modeDiffers(&have, want) {
		changed = true
		if err := unix.Fchmod(fd, want.perm); err != nil {
			return true, targetFailed(err, "change the mode of", rel)
		}
	}
	if owner || attrs {
		set, err := r.fixAttrs(attrsOfFD(fd), want, rel)
		if err != nil {
			return changed, err
		}
		changed = changed || set
	}
	if have.Mtim != want.mtime {
		changed = true
		if err := setTime(fd, want.mtime); err != nil {
			return true, targetFailed(err, "change the time of", rel)
		}
	}
	return changed, nil
}

// setTime sets the modification time of an open entry and leaves the access time.
func setTime(fd int, t unix.Timespec) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0)
}

// fixName gives a symbolic link or a socket its metadata through its directory, for they cannot be
// opened. The mode of a link means nothing.
func (r *restorer) fixName(d *dir, want, was *node, have *unix.Stat_t, rel string) (changed bool, err error) {
	if ownerDiffers(have, want) {
		changed = true
		if err := unix.Fchownat(d.fd, want.name, int(want.uid), int(want.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return true, targetFailed(err, "change the owner of", rel)
		}
	}
	if want.kind == kindSocket && (changed || modeDiffers(have, want)) {
		changed = true
		if err := d.chmod(want.name, want.perm); err != nil {
			return true, targetFailed(err, "change the mode of", rel)
		}
	}
	if was == nil || !was.attrs.equal(want.attrs) {
		set, err := r.fixAttrs(attrsOfName(d, want.name), want, rel)
		if err != nil {
			return changed, err
		}
		changed = changed || set
	}
	if !timeKept(have, want, was) {
		changed = true
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, want.mtime}
		if err := unix.UtimesNanoAt(d.fd, want.name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return true, targetFailed(err, "change the time of", rel)
		}
	}
	return changed, nil
}

func (r *restorer) fixAttrs(t attrTarget, want *node, rel string) (bool, error) {
	changed, err := t.write(want.attrs, func(name string, err error) {
		r.warn.add("the target does not keep the attribute %s of %q: %v", name, rel, err)
	})
	if err != nil {
		return changed, targetFailed(err, "change the attributes of", rel)
	}
	return changed, nil
}
