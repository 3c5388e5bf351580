/* Runs a fuzz target without libFuzzer: every file of the folders named, and RB_FUZZ changed copies of each (default
 * 100), the same ones every time. Prints how many inputs it ran. */
#include <dirent.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz_support.h"

enum { INPUT_BYTES = 1 << 20 };

static uint64_t state = 1;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* In place of libFuzzer's: one byte changed, added or left out, or a stretch copied over another. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    if (size == 0) return size;
    const uint32_t at = draw((uint32_t)size), from = draw((uint32_t)size);
    const size_t n = 1 + draw(8), room = size - (at > from ? at : from);
    switch (draw(4)) {
    case 0: data[at] ^= (uint8_t)(1 << draw(8)); return size;
    case 1: data[at] = (uint8_t)draw(256); return size;
    case 2: memmove(data + at, data + from, n < room ? n : room); return size;
    default:
        if (size + 1 > max_size) return size;
        memmove(data + at + 1, data + at, size - at);
        return size + 1;
    }
}

__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    (void)seed;
    return LLVMFuzzerMutate(data, size, max_size);
}

/* Each in memory of its own size, so that a sanitizer sees the first byte too many. */
static void run_input(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact) abort();
    memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int run_file(const char *path, int n_changed)
{
    static uint8_t seed[INPUT_BYTES], bytes[INPUT_BYTES];
    FILE *file = fopen(path, "rb");
    if (!file) abort();
    const size_t seed_size = fread(seed, 1, sizeof seed, file);
    fclose(file);
    run_input(seed, seed_size);
    for (int i = 0; i < n_changed; i++) {
        size_t size = seed_size;
        memcpy(bytes, seed, size);
        for (uint32_t n = 1 + draw(4); n > 0; n--)
            size = LLVMFuzzerCustomMutator(bytes, size, INPUT_BYTES, draw(1u << 30));
        run_input(bytes, size);
    }
    return 1 + n_changed;
}

int main(int argc, char **argv)
{
    const char *wanted = getenv("RB_FUZZ");
    int n_inputs = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        const int n = scandir(argv[i], &entries, NULL, alphasort); /* in an order that is the same everywhere */
        if (n < 0) {
            fprintf(stderr, "%s: cannot be listed\n", argv[i]);
            return 1;
        }
        for (int j = 0; j < n; j++) {
            char path[1024];
            struct stat info;
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[j]->d_name);
            if (stat(path, &info) == 0 && S_ISREG(info.st_mode))
                n_inputs += run_file(path, wanted ? atoi(wanted) : 100);
            free(entries[j]);
        }
        free(entries);
    }
    printf("%d\n", n_inputs);
    return n_inputs > 0 ? 0 : 1;
}
