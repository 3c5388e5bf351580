/* tensor_release_pages of model/safetensors.h: whole pages of a tensor go back to the system, and never a page that it
 * shares with a neighbour. madvise of this program stands in for libc's and notes what is released. */
#include "tests/test_support.h"

#include <sys/mman.h>

#include "model/safetensors.h"

static struct {
    uintptr_t at;
    size_t size;
    int advice, n;
} released;

int madvise(void *at, size_t size, int advice)
{
    released.at = (uintptr_t)at;
    released.size = size;
    released.advice = advice;
    released.n++;
    return 0;
}

/* Tensors of every awkward size, at and around page boundaries; the pages are counted one by one. */
static void the_pages_that_are_whole_within_a_tensor_are_released_and_no_other(void **state)
{
    (void)state;
    enum { PAGES = 6 };
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t places[] = {0, 1, page - 1, page, page + 1, 2 * page},
                 sizes[] = {0, 1, page - 1, page, page + 1, 2 * page - 1, 2 * page, 2 * page + 1, 3 * page};
    unsigned char *memory = mmap(NULL, PAGES * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    for (size_t i = 0; i < RB_COUNT(places); i++)
        for (size_t j = 0; j < RB_COUNT(sizes); j++) {
            const size_t begin = places[i], end = places[i] + sizes[j];
            size_t n_whole = 0, first = 0;
            for (size_t at = 0; at + page <= PAGES * page; at += page)
                if (at >= begin && at + page <= end && n_whole++ == 0) first = at;
            memset(&released, 0, sizeof released);
            tensor_release_pages(memory + begin, sizes[j]);
            assert_int_equal(released.n, n_whole > 0);
            assert_int_equal(released.size, n_whole * page);
            if (n_whole == 0) continue;
            assert_int_equal(released.at, (uintptr_t)memory + first);
            assert_int_equal(released.advice, MADV_DONTNEED);
        }
    munmap(memory, PAGES * page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pages_that_are_whole_within_a_tensor_are_released_and_no_other),
    };
    return cmocka_run_group_tests_name("release_pages", tests, NULL, NULL);
}
