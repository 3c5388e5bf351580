/* calibrate/capture_parts.h: a run that was stopped is continued to the same bytes, and what is damaged, missing or
 * another's is found. A run that is killed is one whose files are copied while it goes on: the copy is what a kill at
 * that moment would have left. tests/programs/resume.sh kills programs. */
#include "tests/test_support.h"

#include "calibrate/capture_journal.h"
#include "calibrate/capture_parts.h"
#include "calibrate/parts_folder.h"
#include "core/atomic_file.h"
#include "core/message.h"
#include "tests/calibrate/tiny_capture.h"

enum { N_LAYERS = 4, HIDDEN = 9000, N_TOKENS = TINY_N_CALIBRATION + TINY_N_TEST }; /* a stream of two tiles */

static rb_error err;
static capture_header header;
static watched_layer watched[N_LAYERS];
static char *undisturbed; /* the bytes */
static size_t undisturbed_size;

/* ---- runs ------------------------------------------------------------------------------------ */

static float stream_value(int layer, int64_t i) { return (float)(i % 1009 + layer) / 4.0f; }

static void fill_watch(capture_watch *watch, int layer)
{
    watch->layers[layer] = (watched_layer){.sink = {0.25, 0.125 * layer}, .block_share = 0.5 + layer};
}

static void assert_watched(const capture_watch *watch, int layer)
{
    capture_watch wanted = {.layers = watched};
    fill_watch(&wanted, layer);
    assert_memory_equal(&watch->layers[layer], &watched[layer], sizeof watched[layer]);
}

static void write_layer(capture_writer *writer, int layer)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++) assert_ok(tiny_write_layer(writer, &header, set, layer, &err));
    capture_set_residual_energy(writer, layer, tiny_residual_energy(layer));
}

static void write_metrics_and_publish(capture_writer *writer)
{
    float metric[TINY_MAX_METRIC];
    for (int layer = 0; layer < N_LAYERS; layer++) {
        tiny_metric(metric, &header, layer);
        assert_ok(capture_write_output_metric(writer, layer, metric, &err));
    }
    assert_ok(capture_publish(writer, &err));
}

static char *read_bytes(const char *path, size_t *size)
{
    char *bytes = NULL;
    assert_ok(rb_read_file(&bytes, size, path, 1 << 24, &err));
    return bytes;
}

/* A run in a folder of its own, of which OUTPUT is "c.h5". */
typedef struct run {
    char output[600], folder[512];
    capture_parts *parts;
    capture_writer *writer;
    capture_watch watch;
    watched_layer layers[N_LAYERS];
} run;

static run run_at(const char *folder)
{
    run r = {0};
    snprintf(r.folder, sizeof r.folder, "%s", scratch_path(folder));
    snprintf(r.output, sizeof r.output, "%s/c.h5", r.folder);
    assert_ok(rb_make_folder(r.folder, &err));
    return r;
}

static capture_parts_options options_of(const run *r, const char *identity)
{
    return (capture_parts_options){.output = r->output, .identity = identity, .header = &header, .hidden_size = HIDDEN};
}

static const char ours[] = "{\"options\": \"o\", \"weights\": {\"a\": 1}}";

static void open_run(run *r, int n_finished)
{
    static int32_t calibration[TINY_MAX_TOKENS], test[TINY_MAX_TOKENS];
    const int32_t *const tokens[CAPTURE_N_SETS] = {calibration, test};
    const capture_parts_options options = options_of(r, ours);
    tiny_tokens(&header, calibration, CAPTURE_CALIBRATION);
    tiny_tokens(&header, test, CAPTURE_TEST);
    r->watch.layers = r->layers;
    assert_ok(capture_parts_open(&r->parts, &options, &err));
    assert_int_equal(capture_parts_n_finished(r->parts), n_finished);
    assert_ok(capture_parts_create(r->parts, &r->writer, &r->watch, tokens, "{\"n_tokens\": 33}", &err));
    for (int layer = 0; layer < n_finished; layer++) assert_watched(&r->watch, layer);
}

static void do_layers(run *r, int first, int end)
{
    float *stream = malloc((size_t)N_TOKENS * HIDDEN * sizeof *stream);
    assert_non_null(stream);
    for (int layer = first; layer < end; layer++) {
        write_layer(r->writer, layer);
        fill_watch(&r->watch, layer);
        for (int64_t i = 0; i < (int64_t)N_TOKENS * HIDDEN; i++) stream[i] = stream_value(layer, i);
        assert_ok(
            capture_parts_save(r->parts, r->writer, &r->watch, layer, layer + 1 < N_LAYERS ? stream : NULL, &err));
    }
    free(stream);
}

static void end_run(run *r, rb_status st)
{
    capture_writer_free(r->writer);
    capture_parts_close(r->parts, st);
    r->writer = NULL;
    r->parts = NULL;
}

static void shell(const char *format, const char *a, const char *b)
{
    char command[4096];
    snprintf(command, sizeof command, format, a, b);
    assert_int_equal(system(command), 0);
}

static void copy_folder(const run *to, const run *from)
{
    char command[4096];
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to->folder, from->folder, to->folder);
    assert_int_equal(system(command), 0);
}

/* What a run leaves that is killed after n_layers, and after the beginning of the next. */
static run killed_after(int n_layers, const char *folder)
{
    run r = run_at("goes-on"), copy = run_at(folder);
    open_run(&r, 0);
    do_layers(&r, 0, n_layers);
    if (n_layers < N_LAYERS) assert_ok(tiny_write_layer(r.writer, &header, 0, n_layers, &err));
    copy_folder(&copy, &r);
    end_run(&r, RB_EINVAL);
    return copy;
}

static char *inside(const run *r, const char *name)
{
    static char path[4][1024];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s.parts/%s", r->output, name);
    return out;
}

static int n_files(const char *folder)
{
    char command[1024];
    int n = -1;
    snprintf(command, sizeof command, "find '%s' -type f | wc -l", folder);
    FILE *in = popen(command, "r");
    assert_non_null(in);
    assert_int_equal(fscanf(in, "%d", &n), 1);
    pclose(in);
    return n;
}

/* Goes on with a run of which n_finished layers are to be found, and compares. */
static void continues_after(run *r, int n_finished)
{
    size_t size;
    open_run(r, n_finished);
    if (n_finished > 0 && n_finished < N_LAYERS) {
        float *rows = malloc((size_t)N_TOKENS * HIDDEN * sizeof *rows);
        assert_non_null(rows);
        assert_ok(capture_parts_fill_stream(r->parts, 0, 20, rows, &err));
        assert_ok(capture_parts_fill_stream(r->parts, 20, N_TOKENS - 20, rows + 20 * HIDDEN, &err));
        for (int64_t i = 0; i < (int64_t)N_TOKENS * HIDDEN; i++)
            assert_true(rows[i] == stream_value(n_finished - 1, i));
        free(rows);
    }
    do_layers(r, n_finished, N_LAYERS);
    write_metrics_and_publish(r->writer);
    end_run(r, RB_OK);
    char *bytes = read_bytes(r->output, &size);
    assert_int_equal(size, undisturbed_size);
    assert_memory_equal(bytes, undisturbed, size);
    free(bytes);
}

static void continues_and_leaves_nothing(run *r, int n_finished)
{
    continues_after(r, n_finished);
    assert_int_equal(n_files(r->folder), 1);
    assert_int_not_equal(access(inside(r, ""), F_OK), 0);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void flip_byte(const char *path, int64_t offset)
{
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)offset, offset < 0 ? SEEK_END : SEEK_SET), 0);
    const int byte = fgetc(file);
    assert_int_equal(fseek(file, (long)offset, offset < 0 ? SEEK_END : SEEK_SET), 0);
    assert_true(fputc(byte ^ 1, file) != EOF);
    assert_int_equal(fclose(file), 0);
}

static rb_h5_frame last_frame(const run *r, int layer)
{
    capture_journal journal;
    const int64_t stream_bytes = (int64_t)N_TOKENS * HIDDEN * (int64_t)sizeof(float);
    assert_ok(journal_create(&journal, N_LAYERS, capture_layer_n_frames(&header), (stream_bytes + (1 << 20) - 1) >> 20,
                             &err));
    assert_ok(journal_read(&journal, inside(r, "layers.000001"), &err));
    assert_true(journal.n_known > layer);
    const rb_h5_frame frame = journal.layers[layer].frames[journal.n_frames - 1];
    journal_free(&journal);
    return frame;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void a_run_killed_after_any_layer_is_continued_to_the_same_bytes(void **state)
{
    (void)state;
    for (int n = 0; n <= N_LAYERS; n++) {
        run r = killed_after(n, "killed");
        continues_and_leaves_nothing(&r, n);
    }
}

static void a_run_killed_again_and_again_is_continued(void **state)
{
    run r = killed_after(1, "again");
    (void)state;
    for (int n = 1; n < N_LAYERS; n++) {
        run copy = run_at("again-copy");
        open_run(&r, n);
        do_layers(&r, n, n + 1);
        copy_folder(&copy, &r);
        end_run(&r, RB_EINVAL);
        copy_folder(&r, &copy);
    }
    continues_and_leaves_nothing(&r, N_LAYERS);
}

static void a_run_killed_before_it_adds_a_layer_loses_none(void **state)
{
    (void)state;
    for (int n = 1; n <= N_LAYERS; n++) {
        run r = killed_after(n, "again"), copy = run_at("again-copy");
        open_run(&r, n);
        copy_folder(&copy, &r);
        end_run(&r, RB_EINVAL);
        continues_and_leaves_nothing(&copy, n);
    }
}

static void a_torn_journal_ends_with_its_last_whole_record(void **state)
{
    (void)state;
    run r = killed_after(3, "torn");
    flip_byte(inside(&r, "layers.000001"), -1);
    continues_and_leaves_nothing(&r, 2);
    r = killed_after(3, "torn");
    shell("truncate -s -1 '%s'%s", inside(&r, "layers.000001"), "");
    continues_and_leaves_nothing(&r, 2);
    r = killed_after(3, "torn");
    shell("printf 'LAYR and what a power cut left' >>'%s'%s", inside(&r, "layers.000001"), "");
    continues_and_leaves_nothing(&r, 3);
    r = killed_after(3, "torn");
    shell("truncate -s 1T '%s'%s", inside(&r, "layers.000001"), "");
    continues_and_leaves_nothing(&r, 0);
}

static void a_damaged_layer_is_computed_again(void **state)
{
    (void)state;
    run r = killed_after(3, "damaged");
    rb_h5_frame frame = last_frame(&r, 2);
    flip_byte(inside(&r, "c.h5.000001.tmp"), frame.offset + frame.size_bytes - 1);
    continues_and_leaves_nothing(&r, 2);
    r = killed_after(3, "damaged");
    frame = last_frame(&r, 0);
    flip_byte(inside(&r, "c.h5.000001.tmp"), frame.offset); /* there is no stream before layer 1 any more */
    continues_and_leaves_nothing(&r, 0);
    r = killed_after(3, "damaged");
    shell("truncate -s 3000 '%s'%s", inside(&r, "c.h5.000001.tmp"), "");
    continues_and_leaves_nothing(&r, 0);
    r = killed_after(3, "damaged");
    unlink(inside(&r, "c.h5.000001.tmp"));
    continues_and_leaves_nothing(&r, 0);
}

static void a_damaged_or_missing_stream_costs_its_layer_only(void **state)
{
    (void)state;
    run r = killed_after(3, "stream"); /* layers 1, 2, 3 are in the places 0, 1, 0 */
    flip_byte(inside(&r, "stream.0"), -1);
    continues_and_leaves_nothing(&r, 2);
    r = killed_after(3, "stream");
    unlink(inside(&r, "stream.0"));
    continues_and_leaves_nothing(&r, 2);
    r = killed_after(3, "stream");
    shell("truncate -s -1 '%s'%s", inside(&r, "stream.0"), "");
    unlink(inside(&r, "stream.1"));
    continues_and_leaves_nothing(&r, 0);
    r = killed_after(N_LAYERS, "stream"); /* which needs none */
    unlink(inside(&r, "stream.0"));
    unlink(inside(&r, "stream.1"));
    continues_and_leaves_nothing(&r, N_LAYERS);
}

static void parts_of_another_run_are_thrown_away(void **state)
{
    static const char *const theirs[] = {"{\"options\": \"other\", \"weights\": {\"a\": 1}}",
                                         "{\"options\": \"o\", \"weights\": {\"a\": 2}}", "{\"options\": \"o\"}", "[]",
                                         "{\"options\": \"o\", "};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(theirs); i++) {
        run r = killed_after(2, "other");
        assert_ok(rb_atomic_write(inside(&r, "run.json"), theirs[i], strlen(theirs[i]), &err));
        continues_and_leaves_nothing(&r, 0);
    }
    run r = killed_after(2, "other");
    unlink(inside(&r, "run.json"));
    continues_and_leaves_nothing(&r, 0);
}

static void an_output_has_one_writer_at_a_time(void **state)
{
    run first = run_at("held"), second = run_at("held");
    const capture_parts_options options = options_of(&second, ours);
    (void)state;
    open_run(&first, 0);
    do_layers(&first, 0, 1);
    assert_fails(capture_parts_open(&second.parts, &options, &err), RB_EIO, "c.h5: another run is writing it");
    do_layers(&first, 1, N_LAYERS);
    write_metrics_and_publish(first.writer);
    end_run(&first, RB_OK);
    continues_and_leaves_nothing(&second, 0);
}

static void files_of_others_stay(void **state)
{
    run r = killed_after(2, "others");
    (void)state;
    shell("touch '%s' '%s'", inside(&r, "notes.txt"), inside(&r, "layers.1"));
    continues_after(&r, 2);
    assert_int_equal(access(inside(&r, "notes.txt"), F_OK), 0);
    assert_int_equal(access(inside(&r, "layers.1"), F_OK), 0);
    assert_int_equal(n_files(r.folder), 3);
}

static void the_generation_before_holds_until_the_next_is_whole(void **state)
{
    run r = killed_after(3, "generations");
    (void)state;
    shell("head -c 5000 '%s' >'%s'", inside(&r, "c.h5.000001.tmp"), inside(&r, "c.h5.000002.tmp"));
    shell("head -c 1000 '%s' >'%s'", inside(&r, "layers.000001"), inside(&r, "layers.000002"));
    shell("touch '%s'%s", inside(&r, "run.json.k3Zw9a.tmp"), "");
    continues_and_leaves_nothing(&r, 3);
}

static void a_run_killed_after_it_has_published_computes_nothing(void **state)
{
    (void)state;
    for (int has_output = 0; has_output < 2; has_output++) {
        run r = run_at("published"), copy = run_at("published-copy");
        open_run(&r, 0);
        do_layers(&r, 0, N_LAYERS);
        write_metrics_and_publish(r.writer);
        copy_folder(&copy, &r);
        end_run(&r, RB_OK);
        if (!has_output) shell("printf 'another file' >'%s'%s", copy.output, "");
        continues_and_leaves_nothing(&copy, has_output ? N_LAYERS : 0);
    }
}

static void a_run_that_fails_keeps_what_may_be_of_use(void **state)
{
    static const struct {
        int n_layers;
        rb_status st;
        bool is_kept;
    } cases[] = {{2, RB_EIO, true},     {2, RB_ENOMEM, true},      {2, RB_EDEVICE, true},
                 {2, RB_EINVAL, false}, {2, RB_ENONFINITE, false}, {0, RB_EIO, false}};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        run r = run_at("fails");
        open_run(&r, 0);
        do_layers(&r, 0, cases[i].n_layers);
        end_run(&r, cases[i].st);
        assert_int_equal(access(inside(&r, ""), F_OK) == 0, cases[i].is_kept);
        continues_and_leaves_nothing(&r, cases[i].is_kept ? cases[i].n_layers : 0);
    }
}

static void a_published_capture_leaves_nothing_whatever_comes(void **state)
{
    float metric[TINY_MAX_METRIC];
    run r = run_at("printed");
    (void)state;
    open_run(&r, 0);
    do_layers(&r, 0, N_LAYERS);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        tiny_metric(metric, &header, layer);
        assert_ok(capture_write_output_metric(r.writer, layer, metric, &err));
    }
    assert_ok(capture_parts_publish(r.parts, r.writer, &err));
    end_run(&r, RB_ENOMEM);
    assert_int_equal(n_files(r.folder), 1);
}

static void an_output_that_cannot_be_is_refused_in_the_usual_words(void **state)
{
    run r = run_at("refused");
    capture_parts_options options = options_of(&r, ours);
    (void)state;
    options.output = scratch_path("no-folder/c.h5");
    assert_fails(capture_parts_open(&r.parts, &options, &err), RB_EIO, "no-folder: No such file or directory");
    options.output = r.folder;
    assert_fails(capture_parts_open(&r.parts, &options, &err), RB_EIO, "is a folder, expected a regular file");
    options.output = r.output;
    shell("touch '%s.parts'%s", r.output, "");
    assert_fails(capture_parts_open(&r.parts, &options, &err), RB_EIO, "c.h5.parts/lock: Not a directory");
}

static int write_undisturbed(void **state)
{
    run r = run_at("undisturbed");
    (void)state;
    rb_messages_init("test", RB_QUIET);
    header = tiny_header(RB_H5_F16, true);
    header.model.n_layers = N_LAYERS;
    assert_ok(tiny_create(&r.writer, r.output, &header, &err));
    for (int layer = 0; layer < N_LAYERS; layer++) write_layer(r.writer, layer);
    write_metrics_and_publish(r.writer);
    capture_writer_free(r.writer);
    undisturbed = read_bytes(r.output, &undisturbed_size);
    return 0;
}

static int free_undisturbed(void **state)
{
    (void)state;
    free(undisturbed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_killed_after_any_layer_is_continued_to_the_same_bytes),
        cmocka_unit_test(a_run_killed_again_and_again_is_continued),
        cmocka_unit_test(a_run_killed_before_it_adds_a_layer_loses_none),
        cmocka_unit_test(a_torn_journal_ends_with_its_last_whole_record),
        cmocka_unit_test(a_damaged_layer_is_computed_again),
        cmocka_unit_test(a_damaged_or_missing_stream_costs_its_layer_only),
        cmocka_unit_test(parts_of_another_run_are_thrown_away),
        cmocka_unit_test(an_output_has_one_writer_at_a_time),
        cmocka_unit_test(files_of_others_stay),
        cmocka_unit_test(the_generation_before_holds_until_the_next_is_whole),
        cmocka_unit_test(a_run_killed_after_it_has_published_computes_nothing),
        cmocka_unit_test(a_run_that_fails_keeps_what_may_be_of_use),
        cmocka_unit_test(a_published_capture_leaves_nothing_whatever_comes),
        cmocka_unit_test(an_output_that_cannot_be_is_refused_in_the_usual_words),
    };
    return cmocka_run_group_tests(tests, write_undisturbed, free_undisturbed);
}
