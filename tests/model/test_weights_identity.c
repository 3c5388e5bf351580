/* The identity of weights: the rule of weights_identity.h computed by hand, what changes it, and what does not. */
#include "tests/model/tiny_checkpoint.h"

#include <unistd.h>

#include "model/weights_identity.h"

static void identify(char hex[RB_SHA256_HEX], const char *folder)
{
    rb_error err = {0};
    checkpoint *ckpt = NULL;
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_string_equal(checkpoint_config(ckpt)->facts.weights_sample_sha256, "");
    assert_ok(checkpoint_identify_weights(ckpt, &err));
    memcpy(hex, checkpoint_config(ckpt)->facts.weights_sample_sha256, RB_SHA256_HEX);
    checkpoint_close(ckpt);
}

static void identify_set(char hex[RB_SHA256_HEX], const tensor_set *set)
{
    identify(hex, make_checkpoint(CONFIG("llama", ""), set));
}

static void small_tensors_are_hashed_whole_in_the_order_of_names(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    unsigned char bytes[16384];
    size_t n = 0;
    char expected[RB_SHA256_HEX], found[RB_SHA256_HEX];
#define PUT(data, size) (memcpy(bytes + n, data, size), n += (size))
    PUT("ropebits-weights-sample-1", 26);
    for (int left = set.n; left > 0; left--) {
        safetensor *first = &set.at[0];
        for (int i = 1; i < left; i++)
            if (strcmp(set.at[i].name, first->name) < 0) first = &set.at[i];
        PUT(first->name, strlen(first->name) + 1);
        PUT("F32", 4);
        const uint64_t rank = (uint64_t)first->rank;
        PUT(&rank, 8);
        PUT(first->shape, 8 * rank);
        PUT(&first->size_bytes, 8);
        PUT(first->data, first->size_bytes);
        const safetensor used = *first;
        *first = set.at[left - 1];
        set.at[left - 1] = used;
    }
#undef PUT
    assert_ok(rb_sha256_bytes(expected, bytes, n, &err));
    set = plain_set();
    identify_set(found, &set);
    assert_string_equal(found, expected);
}

static void shards_are_the_same_weights(void **state)
{
    (void)state;
    char single[RB_SHA256_HEX], sharded[RB_SHA256_HEX];
    const tensor_set set = plain_set();
    identify_set(single, &set);
    const char *folder = make_folder(CONFIG("llama", ""));
    write_tensors(folder, SHARD_1, set.at, 5);
    write_tensors(folder, SHARD_2, set.at + 5, set.n - 5);
    write_index_of(folder, &set, 5, SHARD_1, SHARD_2);
    identify(sharded, folder);
    assert_string_equal(sharded, single);
}

static void a_change_of_any_tensor_is_another_identity(void **state)
{
    (void)state;
    char single[RB_SHA256_HEX], changed[RB_SHA256_HEX];
    float other[MAX_ELEMENTS];
    tensor_set set = plain_set();
    identify_set(single, &set);
    for (int i = 0; i < set.n; i++) {
        set = plain_set();
        memcpy(other, values, sizeof other);
        other[set.at[i].size_bytes / sizeof(float) - 1] += 0.001f;
        set.at[i].data = other;
        identify_set(changed, &set);
        assert_string_not_equal(changed, single);
    }
    set = plain_set();
    in_set(&set, LAYER "self_attn.k_proj.weight")->dtype = TENSOR_F16; /* of the same bytes */
    in_set(&set, LAYER "self_attn.k_proj.weight")->shape[1] *= 2;
    identify_set(changed, &set);
    assert_string_not_equal(changed, single);
}

/* A tensor of more than its samples: those at equal distances count, what lies between them does not. */
static void a_large_tensor_is_sampled_from_end_to_end(void **state)
{
    (void)state;
    enum { N_BYTES = 64 * 4096 };
    static unsigned char data[N_BYTES];
    const safetensor tensor = {
        .name = "w", .dtype = TENSOR_F32, .rank = 1, .shape = {N_BYTES / 4}, .data = data, .size_bytes = N_BYTES};
    const size_t distance = (N_BYTES - WEIGHTS_SAMPLE_BYTES) / 63;
    const struct {
        size_t at;
        bool is_seen;
    } cases[] = {{0, true},
                 {WEIGHTS_SAMPLE_BYTES - 1, true},
                 {WEIGHTS_SAMPLE_BYTES, false},
                 {31 * distance + 100, true},
                 {N_BYTES - WEIGHTS_SAMPLE_BYTES - 1, false},
                 {N_BYTES - WEIGHTS_SAMPLE_BYTES, true},
                 {N_BYTES - 1, true}};
    char hex[RB_SHA256_HEX], changed[RB_SHA256_HEX];
    for (size_t i = 0; i < N_BYTES; i++) data[i] = (unsigned char)(i * 7);
    tensor_set set = {.at = {tensor}, .n = 1};
    identify_set(hex, &set);
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        data[cases[i].at] ^= 1;
        identify_set(changed, &set);
        data[cases[i].at] ^= 1;
        assert_int_equal(strcmp(hex, changed) != 0, cases[i].is_seen);
    }
}

static void a_file_that_was_cut_is_a_sentence(void **state)
{
    (void)state;
    rb_error err = {0};
    checkpoint *ckpt = NULL;
    const tensor_set set = plain_set();
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    char path[1200];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_int_equal(truncate(path, 100), 0);
    assert_fails(checkpoint_identify_weights(ckpt, &err), RB_EIO, "model.safetensors: cannot read");
    checkpoint_close(ckpt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tensors_are_hashed_whole_in_the_order_of_names),
        cmocka_unit_test(shards_are_the_same_weights),
        cmocka_unit_test(a_change_of_any_tensor_is_another_identity),
        cmocka_unit_test(a_large_tensor_is_sampled_from_end_to_end),
        cmocka_unit_test(a_file_that_was_cut_is_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
