/* The way into a sandbox: commands, files and ports, as streams on the caller's event
 * loop. Every function is called on the thread of `loop`; nothing here blocks. What comes
 * from a sandbox is hostile input: sizes are bounded, texts are checked, a missing outcome
 * is an error and never a success.
 *
 * A stream is opened with an operation and its events; it ends with exactly one of on_end
 * and on_error (never from within the call that opened it), after which only
 * access_close() may be called. access_close() may be called at any time, also from
 * within an event; it cancels what is under way (a command is killed with its whole tree
 * unless it was started to outlive its stream) and no event follows. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>
#include <uv.h>

struct access;
struct access_stream;

enum access_op {
    ACCESS_EXEC,        /* args: exec arguments below. Writes are stdin; data are channels 1 and 2. */
    ACCESS_EXEC_ATTACH, /* args: {id, wait}. The outcome of an exec by its id */
    ACCESS_EXEC_KILL,   /* args: {id}. Ends its whole tree */
    ACCESS_STAT,        /* args: {path}. result: entry */
    ACCESS_LIST,        /* args: {path}. result: {path, entries: [entry]} */
    ACCESS_READ,        /* args: {path, offset?, length?}. on_head: file_info, then data on channel 1 */
    ACCESS_WRITE,  /* args: {path, size?}. Writes are the content. result: {path, bytes, etag, created} */
    ACCESS_MKDIR,  /* args: {path}. Parents too. result: {path, created} */
    ACCESS_REMOVE, /* args: {path, recursive}. result: {} */
    ACCESS_ARCHIVE_READ,  /* args: {path, within?}. Data: a tar stream (pax) of the directory, channel 1 */
    ACCESS_ARCHIVE_WRITE, /* args: {path, within?}. Writes are a tar stream, unpacked under path.
                           * result: {path, entries, bytes} */
    /* within: a directory that path must not leave, also not by a symbolic link on the way: 400 bad_path */
    ACCESS_DIAL, /* args: {port}. on_connected */
    /* args: terminal arguments below. Writes are what is typed, data what the terminal shows (channel 1).
     * result: {exitCode?}, the shell has ended */
    ACCESS_TERMINAL,
};
/* terminal arguments:
 *   session     string, [A-Za-z0-9._-]{1,128}: where the image has tmux, the shell runs in its session
 *               of this name, which is attached to when it is there and outlives this stream; without
 *               tmux a shell of its own ends with the stream
 *   shell       string, an absolute path, started with -l. Where it cannot be executed: /bin/sh
 *   cols, rows  1 to 65535: the window at the start
 *   workingDir  string, an absolute path; default: the sandbox's own
 * on_started: the terminal is there (also when what was to run in it then fails to start). Input is
 * text in UTF-8, taken at ends of characters; what is not UTF-8 may arrive as U+FFFD. Output is bytes
 * as they come, which may end within a character. access_finish() does nothing: a terminal has no end
 * of input. access_close() hangs the shell up: it and all that came of it, also what has left its
 * session, is gone within seconds, but for a tmux server and what runs in it.
 * Errors: 502 terminal_not_started (no shell runs; its message says why), 502 sandbox_unreachable (the
 * connection is lost).
 *
 * entry: {name, size, isDir, mode, modifiedAt, linkTarget?} as in http-api.md 2.9, and
 * for ACCESS_STAT also {path, type: "file"|"dir"|"symlink"|"other"}; symlinks are followed
 * by READ and WRITE, not by STAT, LIST and REMOVE.
 *
 * exec arguments:
 *   id          string, chosen by the caller, [A-Za-z0-9_-]{1,64}
 *   command     array of strings, argv
 *   env         object of strings, over the sandbox's environment
 *   workingDir  string
 *   timeoutMs   wall clock from the start; then TERM, 2 s, KILL to the whole tree
 *   outputLimit bytes kept of each stream; the rest is read and dropped
 *   keep        bool: the command survives the end of this stream, and its outcome can be
 *               asked for by id for 10 minutes after its end
 *   stdin       bool: input follows by access_write, ended by access_finish; else it is /dev/null
 *   attach      bool: start nothing; attach to the kept exec `id` (no command then), from its
 *               first byte of output; 404 exec_not_found
 *   digest      string: with keep, a second exec of the same id and digest attaches to the
 *               first one (from its first byte) instead of starting another; another
 *               digest is 409 exec_id_reused
 * result of EXEC and EXEC_ATTACH:
 *   {id, exitCode, signal, timedOut, killed, truncated: {stdout, stderr}, durationMs,
 *    startError?}  exitCode is -1 when there is none (signal, timeout, could not start).
 *   EXEC_ATTACH may also answer {id, running: true}. */

struct access_head {
    /* ACCESS_READ */
    uint64_t size;   /* of the whole file */
    uint64_t offset; /* of the first byte that follows */
    uint64_t length; /* bytes that follow */
    char etag[80];   /* opaque, quoted; changes when the content does */
    int64_t modified_at;
    unsigned mode;
    int fd; /* >= 0: the content can be read from here at `offset`; owned by the stream until
             * access_take_fd(); then no data events come. -1: data events follow */
};

struct access_events {
    void (*on_head)(void *ctx, const struct access_head *head);
    /* ACCESS_EXEC: the command was started, or attached to. May be NULL. */
    void (*on_started)(void *ctx);
    /* Never more than 64 KiB at once. May be followed by more until access_pause(). */
    void (*on_data)(void *ctx, int channel, const char *data, size_t len);
    /* access_write() took less than it was given; now there is room. And once after
     * access_finish(), when all input has left this process. */
    void (*on_writable)(void *ctx);
    /* ACCESS_DIAL: a connected non-blocking socket; the caller owns it now. The stream has ended. */
    void (*on_connected)(void *ctx, int fd);
    void (*on_end)(void *ctx, const json_t *result);      /* borrowed */
    void (*on_error)(void *ctx, const struct error *err); /* borrowed */
};

/* Error codes that the operations give besides those of error.h:
 *   404 sandbox_not_found, 409 sandbox_not_running, 502 sandbox_unreachable,
 *   504 sandbox_timeout, 404 file_not_found, 400 bad_path, 400 not_a_file,
 *   400 not_a_directory, 403 permission_denied, 409 directory_not_empty, 507 disk_full,
 *   416 range_not_satisfiable, 409 exec_id_reused, 404 exec_not_found, 429 too_many_execs,
 *   502 port_closed (nothing listens), 502 terminal_not_started,
 *   502 sandbox_stopping (said by the runtime), 400 bad_archive, 413 archive_too_large */

#define ERR_TERMINAL_NOT_STARTED "terminal_not_started"
#define ERR_SANDBOX_STOPPING     "sandbox_stopping"

/* ---- For transports: what stands behind the functions below ---- */

/* The first member of a transport's own structure. `open` keeps the promises of access_open and
 * gives a stream whose first member is a struct access_stream; a transport may hand an operation to
 * another one and return that one's stream. */
struct access {
    struct access_stream *(*open)(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                  enum access_op op, const json_t *args, const struct access_events *events,
                                  void *ctx, struct error *err);
};
struct access_stream_ops {
    size_t (*write)(struct access_stream *, const char *data, size_t len);
    void (*finish)(struct access_stream *);
    void (*pause)(struct access_stream *);
    void (*resume)(struct access_stream *);
    int (*take_fd)(struct access_stream *);                               /* NULL: never gives a descriptor */
    void (*resize)(struct access_stream *, unsigned cols, unsigned rows); /* NULL: no terminal */
    void (*close)(struct access_stream *);
};
struct access_stream {
    const struct access_stream_ops *ops;
};

/* The arguments of ACCESS_TERMINAL, checked; borrowed from `args`. False: 400. */
struct access_terminal {
    const char *session, *shell;
    const char *dir; /* NULL: the sandbox's own */
    unsigned cols, rows;
};
bool access_terminal_read(const json_t *args, struct access_terminal *out, struct error *err);

/* ---- For users ---- */

/* Opens a stream to the sandbox (a KIND_SANDBOX object) or returns NULL with err (not
 * running, bad arguments). `args` is borrowed. */
struct access_stream *access_open(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                  enum access_op op, const json_t *args, const struct access_events *events,
                                  void *ctx, struct error *err);
/* Takes up to its free buffer (64 KiB) and returns how much. Less than len: on_writable follows. */
size_t access_write(struct access_stream *s, const char *data, size_t len);
void access_finish(struct access_stream *s); /* no more input */
void access_pause(struct access_stream *s);  /* no on_data until resume */
void access_resume(struct access_stream *s);
int access_take_fd(struct access_stream *s); /* from within on_head; caller owns it and closes the stream */
/* ACCESS_TERMINAL: the window's new size (1 to 65535 each), at any time; of several that were not passed on
 * yet the last one counts. It may overtake input. */
void access_resize(struct access_stream *s, unsigned cols, unsigned rows);
void access_close(struct access_stream *s); /* NULL is fine */
