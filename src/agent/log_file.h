#pragma once
#include "base/defs.h"

/*
 * A log that processes of several users write to: one of them opens it and the
 * others are given descriptors. What each appends by one write() stays together.
 *
 * A file or a FIFO, made when it is not there. Not by a symbolic link, and not
 * by one of several names: the folder may be one that others write to, and
 * whoever opens may have more rights than they. A negative errno; -EINVAL: it
 * is neither; -EMLINK: it has other names.
 */
MUST_CHECK int log_file_open(const char *path);
