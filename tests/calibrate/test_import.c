/* calibrate/import_layout.h and import_facts.h: which tensors an import takes, and what it knows of the model.
 *
 * --export CAPTURE FILE writes a capture's vectors and ids as an import reads them, for tests/programs/import.sh. */
#include "tests/test_support.h"

#include "calibrate/import_facts.h"

static rb_error err;

/* ---- a small model: 2 layers, 4 query heads, 2 KV heads of 8 dims, 5 tokens
 * ------------------------------------------ */

enum { N_Q = 4, N_KV = 2, N_TOKENS = 5, DIM = 8, MAX_TENSORS = 32, MAX_FLOATS = N_Q * N_TOKENS * DIM };

typedef struct tensor_file {
    safetensor at[MAX_TENSORS];
    int n;
} tensor_file;

static float zeros[MAX_FLOATS * 2];

static void add(tensor_file *file, const char *name, tensor_dtype dtype, int rank, const int64_t *shape,
                const void *data)
{
    safetensor *tensor = &file->at[file->n++];
    *tensor = (safetensor){.name = name, .dtype = dtype, .rank = rank, .data = data};
    memcpy(tensor->shape, shape, (size_t)rank * sizeof *shape);
    assert_true(tensor_shape_bytes(dtype, rank, shape, &tensor->size_bytes));
}

static void add_heads(tensor_file *file, const char *name, int n_heads, int n_tokens)
{
    add(file, name, TENSOR_F32, 3, (const int64_t[]){n_heads, n_tokens, DIM}, zeros);
}

static void add_layers(tensor_file *file, const char *const names[4])
{
    for (int i = 0; i < 4; i++) add_heads(file, names[i], i % 2 ? N_KV : N_Q, N_TOKENS);
}

static const char *const PLAIN[] = {"layer_000.q", "layer_000.k", "layer_001.q", "layer_001.k"};
static const char *const TEST[] = {"test.layer_000.q", "test.layer_000.k", "test.layer_001.q", "test.layer_001.k"};
static const char *const GOLDEN[] = {"q_rope.0", "k_rope.0", "q_rope.1", "k_rope.1"};

static const char *write_file(const char *name, const tensor_file *file)
{
    static const char *const key = "model_type", *const value = "from-metadata";
    const char *path = scratch_path(name);
    assert_ok(safetensors_write(path, file->at, file->n, &key, &value, 1, &err));
    return path;
}

static import_options defaults(void)
{
    return (import_options){.q_name = IMPORT_Q_NAME,
                            .k_name = IMPORT_K_NAME,
                            .v_name = IMPORT_V_NAME,
                            .tokens_name = IMPORT_TOKENS_NAME,
                            .pairing = -1,
                            .rope_theta = NAN,
                            .attention_scale = NAN};
}

static rb_status open_layout(import_layout *layout, const tensor_file *file, const import_options *opt)
{
    const rb_string_list files = {1, {write_file("tensors.safetensors", file)}};
    memset(&err, 0, sizeof err);
    return import_layout_open(layout, &files, opt, &err);
}

static void layout_fails(const tensor_file *file, const import_options *opt, rb_status status, const char *text)
{
    import_layout layout;
    assert_fails(open_layout(&layout, file, opt), status, text);
    import_layout_free(&layout);
}

/* ---- layout ---------------------------------------------------------------------------------- */

static void sets_are_told_by_their_prefix(void **state)
{
    (void)state;
    const import_options opt = defaults();
    import_layout layout;
    tensor_file file = {0};
    const char *first;
    add_layers(&file, PLAIN);
    add_layers(&file, TEST);
    add_heads(&file, "something else", 1, 1);
    assert_ok(open_layout(&layout, &file, &opt));
    assert_int_equal(layout.n_layers, 2);
    assert_int_equal(layout.n_q_heads, N_Q);
    assert_int_equal(layout.n_kv_heads, N_KV);
    assert_int_equal(layout.head_dim, DIM);
    assert_false(layout.has_values);
    assert_string_equal(layout.set[CAPTURE_TEST].vectors[CAPTURE_N_VECTORS + CAPTURE_K].tensor->name, TEST[3]);
    assert_int_equal(import_layout_unread(&layout, &first), 1);
    assert_string_equal(first, "something else");
    import_layout_free(&layout);
}

static void names_are_patterns_and_the_last_tokens_may_be_the_test_set(void **state)
{
    (void)state;
    import_options opt = defaults();
    opt.q_name = "q_rope.%d", opt.k_name = "k_rope.%d", opt.tokens_name = "input_ids", opt.n_test_tokens = 2;
    static const int64_t ids[N_TOKENS] = {5, 6, 7, 8, 9};
    import_layout layout;
    tensor_file file = {0};
    add_layers(&file, GOLDEN);
    add(&file, "input_ids", TENSOR_I64, 1, (const int64_t[]){N_TOKENS}, ids);
    assert_ok(open_layout(&layout, &file, &opt));
    assert_int_equal(layout.set[CAPTURE_CALIBRATION].n_tokens, 3);
    assert_int_equal(layout.set[CAPTURE_TEST].first, 3);
    assert_int_equal(layout.set[CAPTURE_TEST].n_tokens, 2);
    int32_t read[N_TOKENS];
    assert_ok(import_tensor_ids(layout.set[CAPTURE_TEST].tensors, &layout.set[CAPTURE_TEST].tokens, read, &err));
    assert_int_equal(read[4], 9);
    import_layout_free(&layout);

    opt.context = 2;
    layout_fails(&file, &opt, RB_EINVAL, "leaves 3 calibration tokens, expected a multiple of --context 2");
    opt.n_test_tokens = N_TOKENS;
    layout_fails(&file, &opt, RB_EINVAL, "--n-test-tokens is 5, expected less than the 5 tokens there");
    static const char *const wrong[] = {"q", "q.%s", "q.%d.%d", "q.%5d"};
    for (size_t i = 0; i < RB_COUNT(wrong); i++) {
        opt.q_name = wrong[i];
        layout_fails(&file, &opt, RB_EUSAGE, "expected a name with one %d or %03d for the layer");
    }
    opt.q_name = "query.%d", opt.k_name = "key.%d";
    layout_fails(&file, &opt, RB_EFORMAT, "no tensor is called as --q-name query.%d or --k-name key.%d say");
}

static void a_tensor_that_is_missing_is_named(void **state)
{
    (void)state;
    const import_options opt = defaults();
    tensor_file file = {0};
    add_layers(&file, PLAIN);
    layout_fails(&file, &opt, RB_EFORMAT, "no test set");
    add_layers(&file, TEST);
    tensor_file hole = file;
    hole.at[3] = hole.at[--hole.n]; /* the test set's last key in place of layer 1's keys */
    layout_fails(&hole, &opt, RB_EFORMAT, "calibration layer 1 has no k: no file has a tensor \"layer_001.k\"");
    hole = file, hole.n--;
    layout_fails(&hole, &opt, RB_EFORMAT, "test layer 1 has no k: no file has a tensor \"test.layer_001.k\"");
    hole = file;
    add_heads(&hole, "layer_003.q", N_Q, N_TOKENS);
    layout_fails(&hole, &opt, RB_EFORMAT,
                 "layer 2 has no q: no file has a tensor \"layer_002.q\", expected one for "
                 "each of layers 0 to 3");
    hole = file;
    add_heads(&hole, "test.layer_001.v", N_KV, N_TOKENS);
    layout_fails(&hole, &opt, RB_EFORMAT, "calibration layer 0 has no v");
}

static void shapes_that_do_not_agree_are_named(void **state)
{
    (void)state;
    const import_options opt = defaults();
    static const struct {
        int at, rank;
        int64_t shape[4];
        rb_status status;
        const char *text;
    } cases[] = {
        {2, 3, {2, N_TOKENS, DIM}, RB_EMISMATCH, "\"layer_001.q\" has shape [2, 5, 8], expected [4, 5, 8]"},
        {3, 3, {N_KV, 4, DIM}, RB_EMISMATCH, "\"layer_001.k\" has shape [2, 4, 8], expected [2, 5, 8]"},
        {5, 3, {N_KV, N_TOKENS, 4}, RB_EMISMATCH, "\"test.layer_000.k\" has shape [2, 5, 4], expected [2, 5, 8]"},
        {0, 4, {1, N_Q, N_TOKENS, DIM}, RB_EFORMAT, "[1, 4, 5, 8], expected [n_heads][n_tokens][head_dim]"},
        {0, 3, {0, N_TOKENS, DIM}, RB_EFORMAT, "[0, 5, 8], expected 1 to"},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        tensor_file file = {0};
        add_layers(&file, PLAIN);
        add_layers(&file, TEST);
        safetensor *tensor = &file.at[cases[i].at];
        tensor->rank = cases[i].rank;
        memcpy(tensor->shape, cases[i].shape, sizeof cases[i].shape);
        assert_true(tensor_shape_bytes(TENSOR_F32, tensor->rank, tensor->shape, &tensor->size_bytes));
        layout_fails(&file, &opt, cases[i].status, cases[i].text);
    }
}

static void ids_and_vectors_of_another_type_are_refused(void **state)
{
    (void)state;
    const import_options opt = defaults();
    static const int64_t ids[N_TOKENS] = {5, 6, -7, 8, 9};
    static const double doubles[MAX_FLOATS];
    int32_t read[N_TOKENS];
    float floats[MAX_FLOATS];
    import_layout layout;
    tensor_file file = {0};
    add_layers(&file, PLAIN);
    add_layers(&file, TEST);
    add(&file, "tokens", TENSOR_I64, 1, (const int64_t[]){N_TOKENS}, ids);
    file.at[0].dtype = TENSOR_F64, file.at[0].data = doubles, file.at[0].size_bytes *= 2;
    assert_ok(open_layout(&layout, &file, &opt));
    const import_set *set = &layout.set[CAPTURE_CALIBRATION];
    assert_fails(import_tensor_ids(set->tensors, &set->tokens, read, &err), RB_EINVAL, "\"tokens\": id 2 is -7");
    assert_fails(import_tensor_ids(set->tensors, &set->vectors[CAPTURE_K], read, &err), RB_EUNSUPPORTED,
                 "\"layer_000.k\" is F32, expected I32 or I64");
    assert_fails(import_tensor_floats(set->tensors, &set->vectors[CAPTURE_Q], 0, N_TOKENS, floats, &err),
                 RB_EUNSUPPORTED, "\"layer_000.q\" is F64, expected F32, F16 or BF16");
    import_layout_free(&layout);
    file.at[8].shape[0] = N_TOKENS - 1, file.at[8].size_bytes -= sizeof *ids;
    layout_fails(&file, &opt, RB_EMISMATCH, "\"tokens\" has shape [4], expected [5], an id a token");
}

static void a_name_in_two_files_is_refused(void **state)
{
    (void)state;
    tensor_file file = {0};
    add_layers(&file, PLAIN);
    const rb_string_list files = {2, {write_file("a.safetensors", &file), write_file("b.safetensors", &file)}};
    import_tensors *tensors = NULL;
    assert_fails(import_tensors_open(&tensors, &files, &err), RB_EFORMAT, "tensor \"layer_000.k\" is in ");
    const rb_string_list other = {1, {"Makefile"}};
    assert_fails(import_tensors_open(&tensors, &other, &err), RB_EFORMAT, "neither a .safetensors nor an .npz file");
}

/* ---- facts ----------------------------------------------------------------------------------- */

/* The facts of the small model with these frequencies (NULL: none) and options. */
static rb_status resolve(model_facts *facts, const double *inv_freq, int n, const import_options *opt)
{
    import_layout layout;
    tensor_file file = {0};
    add_layers(&file, PLAIN);
    add_layers(&file, TEST);
    if (inv_freq) add(&file, "inv_freq", TENSOR_F64, 1, (const int64_t[]){n}, inv_freq);
    assert_ok(open_layout(&layout, &file, opt));
    const rb_status st = import_facts_resolve(facts, &layout, opt, &err);
    import_layout_free(&layout);
    return st;
}

static void facts_come_from_options(void **state)
{
    (void)state;
    import_options opt = defaults();
    model_facts facts;
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EUSAGE, "no pairing");
    opt.pairing = ROPE_INTERLEAVED;
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EUSAGE, "no RoPE frequencies");
    opt.rope_theta = 10000;
    assert_ok(resolve(&facts, NULL, 0, &opt));
    assert_string_equal(facts.model_type, "from-metadata");
    assert_int_equal(facts.rotary_dim, DIM);
    assert_int_equal(facts.rope.pairing, ROPE_INTERLEAVED);
    assert_true(fabs(facts.rope.inv_freq[1] - 0.1) < 1e-15);
    assert_true(fabs(facts.attention_scale - 1 / sqrt(DIM)) < 1e-15);
    opt.rotary_dim = 4, opt.attention_scale = 0.5, opt.model_type = "mine";
    assert_ok(resolve(&facts, NULL, 0, &opt));
    assert_int_equal(facts.rotary_dim, 4);
    assert_true(fabs(facts.rope.inv_freq[1] - 0.01) < 1e-15);
    assert_true(facts.attention_scale == 0.5);
    assert_string_equal(facts.model_type, "mine");
    opt.rotary_dim = 10;
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EINVAL, "rotary_dim is 10, expected 2 to 8");
    opt.model_type = "a name that is far too long for a model";
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EINVAL, "expected 1 to 31");
}

static void frequencies_say_their_base(void **state)
{
    (void)state;
    static const double of_default[5] = {1, 0.03, 0.0009, 0.000027, 1e-6}, of_linear[] = {0.25, 0.025, 0.0025, 0.00025},
                        of_neither[] = {1, 0.1, 0.01, 0.0001}, of_none[] = {1, 0, 0, 0},
                        in_f32[] = {1, 0.1f, 0.01f, 0.001f};
    import_options opt = defaults();
    model_facts facts;
    opt.pairing = ROPE_SPLIT_HALF;
    assert_ok(resolve(&facts, in_f32, 4, &opt));
    assert_int_equal(facts.rope.kind, ROPE_DEFAULT);
    assert_true(facts.rope.theta == 10000);
    assert_ok(resolve(&facts, of_default, 4, &opt));
    assert_int_equal(facts.rope.kind, ROPE_DEFAULT);
    assert_true(fabs(facts.rope.theta / pow(0.03, -4) - 1) < 1e-5);
    assert_ok(resolve(&facts, of_linear, 4, &opt));
    assert_int_equal(facts.rope.kind, ROPE_LINEAR);
    assert_true(facts.rope.theta == 10000 && facts.rope.factor == 4);
    assert_ok(resolve(&facts, of_linear, 2, &opt));
    assert_int_equal(facts.rotary_dim, 4);
    assert_ok(resolve(&facts, of_neither, 4, &opt));
    assert_int_equal(facts.rope.kind, ROPE_LONGROPE);
    assert_memory_equal(facts.rope.inv_freq, of_neither, sizeof of_neither);
    assert_int_equal(facts.rope.original_max_position, N_TOKENS);
    assert_fails(resolve(&facts, of_none, 4, &opt), RB_EINVAL, "\"inv_freq\"[1] is 0, expected a positive number");
    assert_fails(resolve(&facts, of_default, 5, &opt), RB_EFORMAT, "expected [1 to 4]");
    opt.rope_theta = 10000;
    assert_ok(resolve(&facts, in_f32, 4, &opt));
    assert_fails(resolve(&facts, of_default, 4, &opt), RB_EMISMATCH,
                 "\"inv_freq\"[1] is 0.03, but --rope-theta gives 0.1");
    opt.rotary_dim = 6;
    assert_fails(resolve(&facts, in_f32, 4, &opt), RB_EMISMATCH, "has 4 frequencies, expected 3");
}

static void a_configuration_must_suit_the_tensors(void **state)
{
    (void)state;
    import_options opt = defaults();
    model_facts facts;
    opt.config = "configs/demo-llama/config.json";
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EMISMATCH, "has layers 4, the tensors have 2");
    opt.config = scratch_path("config.json");
    FILE *out = fopen(opt.config, "w");
    assert_non_null(out);
    fputs("{\"model_type\": \"hybrid-of-tomorrow\"}", out);
    fclose(out);
    assert_fails(resolve(&facts, NULL, 0, &opt), RB_EUSAGE, "no pairing");
    opt.pairing = ROPE_SPLIT_HALF, opt.rope_theta = 1e6;
    assert_ok(resolve(&facts, NULL, 0, &opt));
    assert_string_equal(facts.model_type, "hybrid-of-tomorrow");
}

/* ---- export ---------------------------------------------------------------------------------- */

/* Every vector of a capture, as f32, and the ids. Memory is the process's. */
static rb_status export_capture(const char *from, const char *to)
{
    static const char names[CAPTURE_N_VECTORS] = {'q', 'k', 'v'};
    capture_file *capture = NULL;
    safetensor *tensors = NULL;
    int n = 0;
    rb_status st;
    RB_TRY(st, capture_open(&capture, from, &err), done);
    const capture_header *header = capture_file_header(capture);
    RB_TRY(st, rb_alloc(&tensors, 4096, sizeof *tensors, "tensors", &err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        int32_t *ids;
        const int64_t n_tokens = header->text[set].n_tokens;
        char *name;
        RB_TRY(st, rb_alloc(&ids, (size_t)n_tokens, sizeof *ids, "ids", &err), done);
        RB_TRY(st, capture_read_tokens(capture, (capture_set)set, ids, &err), done);
        RB_TRY(st, rb_format(&name, &err, "%s.tokens", capture_set_name((capture_set)set)), done);
        tensors[n++] = (safetensor){name, TENSOR_I32, 1, {n_tokens}, ids, (size_t)n_tokens * sizeof *ids};
        for (int at = 0; at < header->model.n_layers * capture_n_vectors(header); at++) {
            const int layer = at / capture_n_vectors(header), vectors = at % capture_n_vectors(header);
            safetensor *tensor = &tensors[n++];
            float *data;
            *tensor = (safetensor){.dtype = TENSOR_F32, .rank = 3};
            capture_vectors_dims(header, (capture_set)set, (capture_vectors)vectors, tensor->shape);
            tensor_shape_bytes(TENSOR_F32, 3, tensor->shape, &tensor->size_bytes);
            RB_TRY(st, rb_alloc(&data, tensor->size_bytes, 1, "vectors", &err), done);
            st = vectors == CAPTURE_Q   ? capture_read_q(capture, (capture_set)set, layer, data, &err)
                 : vectors == CAPTURE_K ? capture_read_k(capture, (capture_set)set, layer, data, &err)
                                        : capture_read_v(capture, (capture_set)set, layer, data, &err);
            if (st != RB_OK) goto done;
            RB_TRY(
                st,
                rb_format(&name, &err, "%s.layer_%03d.%c", capture_set_name((capture_set)set), layer, names[vectors]),
                done);
            tensor->name = name, tensor->data = data;
        }
    }
    RB_TRY(st, safetensors_write(to, tensors, n, NULL, NULL, 0, &err), done);
done:
    capture_close(capture);
    return st;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_are_told_by_their_prefix),
        cmocka_unit_test(names_are_patterns_and_the_last_tokens_may_be_the_test_set),
        cmocka_unit_test(a_tensor_that_is_missing_is_named),
        cmocka_unit_test(shapes_that_do_not_agree_are_named),
        cmocka_unit_test(ids_and_vectors_of_another_type_are_refused),
        cmocka_unit_test(a_name_in_two_files_is_refused),
        cmocka_unit_test(facts_come_from_options),
        cmocka_unit_test(frequencies_say_their_base),
        cmocka_unit_test(a_configuration_must_suit_the_tensors),
    };
    if (argc == 4 && strcmp(argv[1], "--export") == 0) {
        const rb_status st = export_capture(argv[2], argv[3]);
        if (st != RB_OK) fprintf(stderr, "%s\n", err.msg);
        _exit(rb_exit_code(st)); /* what it holds is the process's: nothing for the leak checker */
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
