#include "router/archive_args.h"

#include "router/sandbox_path.h"

#include <strings.h>

static const struct {
    const char *name, *extension, *content_type;
} formats[] = {
    [ARCHIVE_ZIP] = {"zip", ".zip", "application/zip"},
    [ARCHIVE_TAR] = {"tar", ".tar", "application/x-tar"},
    [ARCHIVE_TAR_GZ] = {"tar.gz", ".tar.gz", "application/gzip"},
};

bool archive_path(struct request *r, struct buffer *path, struct error *err) {
    const char *raw = request_query(r, "path");
    if (!sandbox_path_clean(raw && raw[0] ? raw : WORKSPACE, path, err)) return false;
    if (sandbox_path_in_workspace(path->data)) return true;
    error_set(err, 400, "bad_path", "archives are of " WORKSPACE " and directories below it");
    return false;
}

bool archive_format_query(struct request *r, enum archive_format *format, bool *given, struct error *err) {
    const char *name = request_query(r, "format");
    *given = name && name[0];
    if (!*given) return true;
    if (strcmp(name, "tgz") == 0) name = "tar.gz";
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(name, formats[i].name) == 0) {
            *format = (enum archive_format)i;
            return true;
        }
    error_set_field(err, "format", "must be zip, tar or tar.gz");
    return false;
}

const char *archive_content_type(enum archive_format format) {
    return formats[format].content_type;
}

const char *archive_extension(enum archive_format format) {
    return formats[format].extension;
}

bool archive_format_of_type(const char *content_type, enum archive_format *format) {
    static const struct {
        const char *type;
        enum archive_format format;
    } types[] = {
        {"application/zip", ARCHIVE_ZIP},       {"application/x-zip-compressed", ARCHIVE_ZIP},
        {"application/x-tar", ARCHIVE_TAR},     {"application/tar", ARCHIVE_TAR},
        {"application/gzip", ARCHIVE_TAR_GZ},   {"application/x-gzip", ARCHIVE_TAR_GZ},
        {"application/x-gtar", ARCHIVE_TAR_GZ}, {"application/x-compressed-tar", ARCHIVE_TAR_GZ},
    };
    if (!content_type) return false;
    size_t n = strcspn(content_type, "; \t");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strlen(types[i].type) == n && strncasecmp(types[i].type, content_type, n) == 0) {
            *format = types[i].format;
            return true;
        }
    return false;
}
