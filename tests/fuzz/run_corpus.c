/* Feeds every file of the given folders to a fuzz target: a target's seeds and all that once
 * crashed it run as an ordinary test, with any compiler. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define INPUT_MAX (16 * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fail(const char *what, const char *path) {
    fprintf(stderr, "run_corpus: %s: %s\n", what, path);
    return EXIT_FAILURE;
}

static int run_file(const char *path) {
    FILE *in = fopen(path, "rb");
    if (!in) return fail("cannot open", path);
    /* Exactly as large as the input, so that a sanitizer sees a read beyond it. */
    struct stat st;
    if (fstat(fileno(in), &st) != 0 || st.st_size > INPUT_MAX) {
        fclose(in);
        return fail("larger than 16 MiB", path);
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    int result = EXIT_SUCCESS;
    if (!data || fread(data, 1, size, in) != size)
        result = fail("cannot read", path);
    else
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    fclose(in);
    return result;
}

static int run_folder(const char *folder, int *count) {
    DIR *dir = opendir(folder);
    if (!dir) return fail("cannot open", folder);
    int result = EXIT_SUCCESS;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (n < 0 || (size_t)n >= sizeof path) {
            result = fail("name too long", entry->d_name);
            continue;
        }
        fprintf(stderr, "%s\n", path); /* so that a crash names its input */
        if (run_file(path) != EXIT_SUCCESS) result = EXIT_FAILURE;
        ++*count;
    }
    closedir(dir);
    return result;
}

int main(int argc, char **argv) {
    int count = 0;
    int result = EXIT_SUCCESS;
    static const uint8_t nothing = 0;
    LLVMFuzzerTestOneInput(&nothing, 0);
    for (int i = 1; i < argc; i++) {
        if (run_folder(argv[i], &count) != EXIT_SUCCESS) result = EXIT_FAILURE;
    }
    if (count == 0) return fail("no inputs", argc > 1 ? argv[1] : "no folder given");
    return result;
}
