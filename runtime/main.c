/* agenttier-runtime: the program inside a sandbox (docs/runtime-protocol.md). This file reads
 * the flags and makes the process fit to be process 1 among commands that nobody trusts. */
#include "runtime/server.h"

#include "common/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TOKEN_VARIABLE  "AGENTTIER_RUNTIME_TOKEN"
#define DEFAULT_ADDRESS "0.0.0.0:9000"
#define BACKLOG         128
#define GRACE_MAX       3600
#define TOKEN_MAX       4096

#define EXIT_ADDRESS_TAKEN 3

struct flags {
    const char *listen_addr;
    int listen_fd;
    int grace_seconds;
    bool no_token, token_stdin, detach;
    enum log_format log_format;
};

enum {
    FLAG_FD = 1,
    FLAG_ADDR,
    FLAG_GRACE,
    FLAG_NO_TOKEN,
    FLAG_TOKEN_STDIN,
    FLAG_DETACH,
    FLAG_LOG,
    FLAG_VERSION,
    FLAG_HELP
};

static const char help[] =
    "Usage: agenttier-runtime [--listen-fd=N | --listen-addr=HOST:PORT] [flags]\n"
    "\n"
    "Runs commands, moves files and reaches ports inside a sandbox, for the Router.\n"
    "\n"
    "  --listen-fd=N          a listening socket that was opened already\n"
    "  --listen-addr=ADDRESS  listen on TCP (default " DEFAULT_ADDRESS "); the bearer token is\n"
    "                         the environment variable " TOKEN_VARIABLE "\n"
    "  --token-stdin          the token is the first line of standard input instead\n"
    "  --insecure-no-token    serve TCP without a token\n"
    "  --detach               once it listens, go on in the background; the exit status says whether it "
    "does\n"
    "  --grace-seconds=N      between TERM and KILL when the runtime stops (default 5)\n"
    "  --log-format=FORMAT    json (default) or text\n"
    "  --version, --help\n";

static bool parse_number(const char *text, int max, int *out) {
    uint64_t n;
    if (!slice_parse_u64(slice_of(text), (uint64_t)max, &n)) return false;
    *out = (int)n;
    return true;
}

/* Returns -1 to go on, else the exit status. */
static int parse_flags(int argc, char **argv, struct flags *f) {
    static const struct option options[] = {{"listen-fd", required_argument, NULL, FLAG_FD},
                                            {"listen-addr", required_argument, NULL, FLAG_ADDR},
                                            {"grace-seconds", required_argument, NULL, FLAG_GRACE},
                                            {"insecure-no-token", no_argument, NULL, FLAG_NO_TOKEN},
                                            {"token-stdin", no_argument, NULL, FLAG_TOKEN_STDIN},
                                            {"detach", no_argument, NULL, FLAG_DETACH},
                                            {"log-format", required_argument, NULL, FLAG_LOG},
                                            {"version", no_argument, NULL, FLAG_VERSION},
                                            {"help", no_argument, NULL, FLAG_HELP},
                                            {NULL, 0, NULL, 0}};
    *f = (struct flags){
        .listen_addr = DEFAULT_ADDRESS, .listen_fd = -1, .grace_seconds = 5, .log_format = LOG_FORMAT_JSON};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        bool good = true;
        switch (c) {
        case FLAG_FD: good = parse_number(optarg, 1 << 20, &f->listen_fd); break;
        case FLAG_ADDR: f->listen_addr = optarg; break;
        case FLAG_GRACE: good = parse_number(optarg, GRACE_MAX, &f->grace_seconds); break;
        case FLAG_NO_TOKEN: f->no_token = true; break;
        case FLAG_TOKEN_STDIN: f->token_stdin = true; break;
        case FLAG_DETACH: f->detach = true; break;
        case FLAG_LOG:
            good = strcmp(optarg, "json") == 0 || strcmp(optarg, "text") == 0;
            f->log_format = strcmp(optarg, "text") == 0 ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
            break;
        case FLAG_VERSION: puts("agenttier-runtime " AGENTTIER_VERSION); return 0;
        case FLAG_HELP: fputs(help, stdout); return 0;
        default: return 2;
        }
        if (!good) {
            fprintf(stderr, "agenttier-runtime: bad value \"%s\"\n", optarg);
            return 2;
        }
    }
    if (optind == argc) return -1;
    fprintf(stderr, "agenttier-runtime: unexpected argument \"%s\"\n", argv[optind]);
    return 2;
}

/* Host and port by numbers only: no resolver in a static program. */
static int listen_tcp(const char *address) {
    const char *colon = strrchr(address, ':');
    int port;
    if (!colon || !parse_number(colon + 1, 65535, &port)) {
        errno = EINVAL;
        return -1;
    }
    char host[64];
    size_t n = (size_t)(colon - address);
    bool bracketed = n >= 2 && address[0] == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(bracketed ? n - 2 : n), address + (bracketed ? 1 : 0));
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool is_v4 = !*host || inet_pton(AF_INET, host, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int one = 1;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const struct sockaddr *sa = is_v4 ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6;
    if (bind(fd, sa, is_v4 ? sizeof v4 : sizeof v6) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int errnum = errno;
    close(fd);
    errno = errnum;
    return -1;
}

static bool adopt_socket(int fd, bool *local) {
    int listening = 0, domain = 0;
    socklen_t len = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0) return false;
    len = sizeof domain;
    if (!listening || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0) return false;
    *local = domain == AF_UNIX;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

/* The token leaves the environment, also the copy that the kernel shows in /proc. */
static char *take_token(void) {
    char *value = getenv(TOKEN_VARIABLE);
    if (!value) return NULL;
    char *token = *value ? xstrdup(value) : NULL;
    explicit_bzero(value, strlen(value));
    unsetenv(TOKEN_VARIABLE);
    return token;
}

/* The first line of standard input, read byte by byte: what follows it is not ours. NULL: there is none. */
static char *read_token(void) {
    char line[TOKEN_MAX + 1];
    size_t n = 0;
    for (ssize_t got; n < TOKEN_MAX; n++) {
        do
            got = read(0, line + n, 1);
        while (got < 0 && errno == EINTR);
        if (got <= 0 || line[n] == '\n') break;
    }
    line[n] = '\0';
    char *token = n > 0 && n < TOKEN_MAX ? xstrdup(line) : NULL;
    explicit_bzero(line, sizeof line);
    return token;
}

/* Returns in a child that serves; the parent stays and makes another one when that is killed: nobody else
 * would in a pod (W39). */
static void keep_a_server(void) {
    for (;;) {
        pid_t pid = fork();
        if (pid == 0) return;
        int status;
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (pid > 0 && WIFEXITED(status)) _exit(WEXITSTATUS(status));
        sleep(1);
    }
}

/* The parent ends, which says that we listen; we are nobody's child and have no terminal. */
static bool go_on_in_background(void) {
    pid_t pid = fork();
    if (pid < 0) return false;
    if (pid > 0) _exit(0);
    setsid();
    if (dup2(0, 1) < 0 || dup2(0, 2) < 0) return false; /* 0 is /dev/null by now */
    keep_a_server();
    return true;
}

/* Descriptors 0 to 2 are there; all others are not for commands. */
static bool tidy_descriptors(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return false;
    for (int fd = 1; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && dup2(null, fd) < 0) return false;
    if (dup2(null, 0) < 0) return false;
    if (syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) == 0) return true;
    for (int fd = 3; fd < 4096; fd++) { /* kernels before 5.11 */
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0 && fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) return false;
    }
    return true;
}

int main(int argc, char **argv) {
    struct flags f;
    int status = parse_flags(argc, argv, &f);
    if (status >= 0) return status;
    log_configure(LOG_LEVEL_INFO, f.log_format, 2);
    /* What runs beside us has our uid: it may neither trace us nor read our memory. */
    prctl(PR_SET_DUMPABLE, 0);
    cleanup_free char *token = take_token();
    if (f.token_stdin) {
        free(token);
        token = read_token();
        if (!token) {
            log_error("no token on standard input", NULL);
            return 1;
        }
    }
    if (!tidy_descriptors()) {
        log_error("cannot open /dev/null", "why", strerror(errno), NULL);
        return 1;
    }
    struct server_options options = {.listen_fd = f.listen_fd, .grace_seconds = f.grace_seconds};
    options.serve.umask = umask(0);
    umask(options.serve.umask);
    if (f.listen_fd < 0)
        options.listen_fd = listen_tcp(f.listen_addr);
    else if (!adopt_socket(f.listen_fd, &options.local))
        options.listen_fd = -1;
    if (options.listen_fd < 0) {
        int errnum = errno;
        log_error("cannot listen", "why", strerror(errnum), NULL);
        return errnum == EADDRINUSE ? EXIT_ADDRESS_TAKEN : 1;
    }
    if (!options.local) {
        /* Without a token nothing but /healthz is served: no request can bear an empty one. */
        options.serve.token = token ? token : f.no_token ? NULL : "";
        if (!token)
            log_warn(f.no_token ? "every request is accepted" : "no token: requests are refused", NULL);
    }
    log_info("runtime started", "version", AGENTTIER_VERSION, NULL);
    if (f.detach && !go_on_in_background()) {
        log_error("cannot go on in the background", "why", strerror(errno), NULL);
        return 1;
    }
    return server_run(&options);
}
