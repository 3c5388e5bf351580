/* Pipeline files: what they give on a command line, and what they refuse. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "run/pipeline_config.h"

static const char *pipeline_with(const char *members)
{
    rb_error err = {0};
    char text[1024];
    const char *path = scratch_path("pipeline.json");
    snprintf(text, sizeof text, "{\"schema\": \"ropebits-pipeline\", \"version\": 1%s%s}", members[0] ? ", " : "",
             members);
    assert_ok(rb_atomic_write(path, text, strlen(text), &err));
    return path;
}

static void assert_refused(const char *members, const char *message)
{
    rb_error err = {0};
    pipeline_config config;
    assert_fails(pipeline_config_read(&config, pipeline_with(members), &err), RB_EFORMAT, message);
    assert_null(pipeline_value(&config, NULL, "model"));
}

static void paths_are_relative_to_the_files_folder_and_values_as_on_a_command_line(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
    char expected[512];
    const char *path = pipeline_with(
        "\"model\": \"m\", \"text\": \"/abs/t.txt\", \"calibrate\": {\"n_tokens\": 100, \"dtype\": "
        "\"f32\", \"values\": true}, "
        "\"profile\": {\"budgets\": [2, 2.5, 3], \"methods\": [\"uniform\", \"block-gtq\"], \"sink\": 2}, "
        "\"allocate\": {\"method\": \"block-gtq\", \"avg_bits\": 2.5, \"value_bits\": 2.5, "
        "\"value_per\": \"head\", \"rotation\": \"hadamard\", \"sink\": \"auto\", \"recent\": 8}");
    assert_ok(pipeline_config_read(&config, path, &err));
    snprintf(expected, sizeof expected, "%.*s/m", (int)(strrchr(path, '/') - path), path);
    assert_string_equal(pipeline_value(&config, NULL, "model"), expected);
    assert_int_equal(config.texts.n, 1);
    assert_string_equal(config.texts.at[0], "/abs/t.txt");
    assert_string_equal(pipeline_value(&config, "calibrate", "n_tokens"), "100");
    assert_string_equal(pipeline_value(&config, "calibrate", "dtype"), "f32");
    assert_string_equal(pipeline_value(&config, "profile", "budgets"), "2,2.5,3");
    assert_string_equal(pipeline_value(&config, "profile", "methods"), "uniform,block-gtq");
    assert_string_equal(pipeline_value(&config, "allocate", "avg_bits"), "2.5");
    assert_string_equal(pipeline_value(&config, "allocate", "rotation"), "hadamard");
    assert_non_null(pipeline_value(&config, "calibrate", "values"));
    assert_string_equal(pipeline_value(&config, "allocate", "value_bits"), "2.5");
    assert_string_equal(pipeline_value(&config, "allocate", "value_per"), "head");
    assert_string_equal(pipeline_value(&config, "profile", "sink"), "2");
    assert_string_equal(pipeline_value(&config, "allocate", "sink"), "auto");
    assert_string_equal(pipeline_value(&config, "allocate", "recent"), "8");
    assert_null(pipeline_value(&config, NULL, "test_text"));
    assert_null(pipeline_value(&config, "calibrate", "context"));
    assert_null(pipeline_value(&config, "calibrate", "with_needles"));
    assert_null(pipeline_value(&config, "calibrate", "needle_template"));
    pipeline_config_free(&config);
    pipeline_config_free(&config);
}

static void several_texts_keep_their_weights_and_needles_their_options(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
    char expected[512];
    const char *path =
        pipeline_with("\"model\": \"m\", \"bos\": \"sequence\", \"text\": [\"a,b.txt\", \"sub/c.txt:2.5\"], "
                      "\"calibrate\": {\"with_needles\": "
                      "true, \"needle_share\": 0.5, "
                      "\"needle_template\": \"plain\"}, \"allocate\": {\"method\": \"block-gtq\", \"avg_bits\": 3}");
    const int folder_length = (int)(strrchr(path, '/') - path);
    assert_ok(pipeline_config_read(&config, path, &err));
    assert_int_equal(config.texts.n, 2);
    snprintf(expected, sizeof expected, "%.*s/a,b.txt", folder_length, path);
    assert_string_equal(config.texts.at[0], expected);
    snprintf(expected, sizeof expected, "%.*s/sub/c.txt:2.5", folder_length, path);
    assert_string_equal(config.texts.at[1], expected);
    assert_string_equal(pipeline_value(&config, NULL, "bos"), "sequence");
    assert_string_equal(pipeline_value(&config, "calibrate", "with_needles"), "");
    assert_null(pipeline_value(&config, "calibrate", "values"));
    assert_string_equal(pipeline_value(&config, "calibrate", "needle_share"), "0.5");
    assert_string_equal(pipeline_value(&config, "calibrate", "needle_template"), "plain");
    pipeline_config_free(&config);

    path = pipeline_with("\"model\": \"m\", \"text\": \"t\", \"calibrate\": {\"needle_template\": \"mine.json\"}, "
                         "\"allocate\": {\"method\": \"block-gtq\", \"avg_bits\": 3}");
    assert_ok(pipeline_config_read(&config, path, &err));
    snprintf(expected, sizeof expected, "%.*s/mine.json", (int)(strrchr(path, '/') - path), path);
    assert_string_equal(pipeline_value(&config, "calibrate", "needle_template"), expected);
    pipeline_config_free(&config);
}

static void limits_are_a_number_or_one_for_each_metric(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
#define PLAIN "\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\", \"avg_bits\": 3}, "
    assert_ok(pipeline_config_read(&config,
                                   pipeline_with(PLAIN "\"profile\": {\"seeds\": 8}, \"compare\": {"
                                                       "\"max_regression\": {\"logit_mae\": 2.5, \"kl_mean\": 5}, "
                                                       "\"max_growth\": 1}"),
                                   &err));
    assert_string_equal(pipeline_value(&config, "compare", "max_regression"), "logit_mae=2.5,kl_mean=5");
    assert_string_equal(pipeline_value(&config, "compare", "max_growth"), "1");
    assert_string_equal(pipeline_value(&config, "profile", "seeds"), "8");
    assert_null(pipeline_value(&config, "compare", "max_needles_lost"));
    pipeline_config_free(&config);
    assert_ok(pipeline_config_read(&config, pipeline_with(PLAIN "\"compare\": {\"max_regression\": 3}"), &err));
    assert_string_equal(pipeline_value(&config, "compare", "max_regression"), "3");
    pipeline_config_free(&config);
    assert_refused(PLAIN "\"compare\": {\"max_regression\": \"3\"}", "compare.max_regression: expected a number, or");
    assert_refused(PLAIN "\"compare\": {\"max_regression\": {\"a\": \"3\"}}", "max_regression.a: expected a number");
    assert_refused(PLAIN "\"compare\": {\"max_growht\": 3}", "did you mean \"max_growth\"?");
#undef PLAIN
}

static void missing_and_misspelt_members_are_named(void **state)
{
    (void)state;
    assert_refused("", "model is missing");
    assert_refused("\"model\": \"m\"", "text is missing");
    assert_refused("\"model\": \"m\", \"text\": \"t\"", "allocate.method is missing");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\"}",
                   "allocate has 0 budgets, expected one of avg_bits, true_bits, total_bits, bytes_per_token");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\", \"avg_bits\": 3, "
                   "\"true_bits\": 3}",
                   "allocate has 2 budgets");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\", \"memory\": \"4GiB\"}",
                   "allocate.memory and allocate.context go together");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"txet\": \"x\"", "no member \"txet\"; did you mean \"text\"?");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"exports\": {}",
                   "no member \"exports\"; did you mean \"export\"?");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"true-bits\": 3}",
                   "allocate has no member \"true-bits\"; did you mean \"true_bits\"?");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"profile\": {\"budget\": [2]}",
                   "profile has no member \"budget\"");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"profile\": 3", "profile: expected an object");
    char many[400] = "\"model\": \"m\", \"text\": \"t\", \"profile\": {\"budgets\": [2";
    for (int i = 0; i < RB_MAX_LIST; i++) strcat(many, ",2");
    strcat(many, "]}");
    assert_refused(many, "profile.budgets: has 65 entries, expected at most 64");
}

/* Members are the options of their stage: no two rows say the same, and names follow one rule. */
static void members_are_named_as_options(void **state)
{
    (void)state;
    for (int i = 0; i < pipeline_n_members; i++) {
        const pipeline_member *m = &pipeline_members[i];
        char name[64];
        for (int j = 0; j < i; j++)
            if (m->section && pipeline_members[j].section && strcmp(m->section, pipeline_members[j].section) == 0)
                assert_string_not_equal(m->key, pipeline_members[j].key);
        if (!m->option) continue;
        snprintf(name, sizeof name, "%s", m->option);
        for (char *at = name; *at; at++)
            if (*at == '-') *at = '_';
        assert_string_equal(m->key, name);
    }
}

static void token_ids_stand_in_for_a_text(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
    assert_ok(pipeline_config_read(
        &config,
        pipeline_with("\"model\": \"m\", \"calibrate\": {\"tokens\": \"/ids.json\", \"test_tokens\": \"/test.json\"}, "
                      "\"allocate\": {\"method\": \"optimal\", \"memory\": \"4GiB\", \"context\": 8192, "
                      "\"widths\": [2, 4, 8], \"center\": true}"),
        &err));
    assert_int_equal(config.texts.n, 0);
    assert_string_equal(pipeline_value(&config, "calibrate", "tokens"), "/ids.json");
    assert_string_equal(pipeline_value(&config, "allocate", "memory"), "4GiB");
    assert_string_equal(pipeline_value(&config, "allocate", "widths"), "2,4,8");
    assert_string_equal(pipeline_value(&config, "allocate", "center"), "");
    assert_false(config.evaluates);
    pipeline_config_free(&config);
}

static void notes_are_for_people(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
#define MEMBERS "\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\", \"avg_bits\": 3}, "
    assert_ok(pipeline_config_read(&config, pipeline_with(MEMBERS "\"notes\": \"one\""), &err));
    pipeline_config_free(&config);
    assert_ok(pipeline_config_read(&config, pipeline_with(MEMBERS "\"notes\": [\"one\", \"two\"]"), &err));
    pipeline_config_free(&config);
    assert_refused(MEMBERS "\"notes\": 1", "notes: expected a string or a list of strings");
    assert_refused(MEMBERS "\"notes\": [\"one\", {}]", "notes: expected a string or a list of strings");
#undef MEMBERS
}

static void members_of_the_wrong_type_are_named(void **state)
{
    (void)state;
    assert_refused("\"model\": 3, \"text\": \"t\"", "model: expected a path");
    assert_refused("\"model\": \"m\", \"text\": []", "text: expected a path or a list of paths");
    assert_refused("\"model\": \"m\", \"text\": [\"t\", 3]", "text: expected a path");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"calibrate\": {\"with_needles\": 1}",
                   "calibrate.with_needles: expected true or false");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"calibrate\": {\"needle_template\": 1}",
                   "calibrate.needle_template: expected a name or a path");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"calibrate\": {\"context\": \"1024\"}",
                   "calibrate.context: expected a number");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"profile\": {\"budgets\": []}",
                   "profile.budgets: expected a list");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"profile\": {\"budgets\": [true]}",
                   "profile.budgets: expected a number or a string");
    assert_refused("\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": 1}",
                   "allocate.method: expected a string");
}

static void an_evaluation_needs_budgets_methods_and_a_text(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
#define REQUIRED_MEMBERS "\"model\": \"m\", \"text\": \"t\", \"allocate\": {\"method\": \"uniform\", \"avg_bits\": 3}, "
    const char *path = pipeline_with(
        REQUIRED_MEMBERS
        "\"evaluate\": {\"budgets\": [2, 3], \"methods\": [\"uniform\", \"block-gtq\"], \"text\": \"/e.txt\", "
        "\"needles\": 24, \"needle_tasks\": [\"single\"], \"recent\": 16}");
    assert_ok(pipeline_config_read(&config, path, &err));
    assert_string_equal(pipeline_value(&config, "evaluate", "budgets"), "2,3");
    assert_string_equal(pipeline_value(&config, "evaluate", "methods"), "uniform,block-gtq");
    assert_string_equal(pipeline_value(&config, "evaluate", "text"), "/e.txt");
    assert_string_equal(pipeline_value(&config, "evaluate", "needles"), "24");
    assert_string_equal(pipeline_value(&config, "evaluate", "needle_tasks"), "single");
    assert_string_equal(pipeline_value(&config, "evaluate", "recent"), "16");
    assert_null(pipeline_value(&config, "evaluate", "context"));
    pipeline_config_free(&config);
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {\"methods\": [\"uniform\"]}", "evaluate.budgets is missing");
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {\"budgets\": [2]}", "evaluate.methods is missing");
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {\"budgets\": [2], \"methods\": [\"uniform\"]}",
                   "evaluate.text is missing");
    assert_ok(pipeline_config_read(
        &config, pipeline_with(REQUIRED_MEMBERS "\"evaluate\": {\"plan\": true, \"text\": \"/e.txt\"}"), &err));
    assert_true(config.evaluates);
    assert_null(pipeline_value(&config, "evaluate", "budgets"));
    pipeline_config_free(&config);
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {\"plan\": false, \"text\": \"/e.txt\"}",
                   "evaluate.budgets is missing");
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {}", "evaluate.budgets is missing");
    assert_refused(REQUIRED_MEMBERS "\"evaluate\": {\"budget\": [2]}", "evaluate has no member \"budget\"");
#undef REQUIRED_MEMBERS
}

static void another_schema_is_refused_with_both_names(void **state)
{
    (void)state;
    rb_error err = {0};
    pipeline_config config;
    const char *path = scratch_path("other.json"), *text = "{\"schema\": \"ropebits-plan\", \"version\": 1}";
    assert_ok(rb_atomic_write(path, text, strlen(text), &err));
    assert_fails(pipeline_config_read(&config, path, &err), RB_EFORMAT, "ropebits-plan");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_relative_to_the_files_folder_and_values_as_on_a_command_line),
        cmocka_unit_test(several_texts_keep_their_weights_and_needles_their_options),
        cmocka_unit_test(limits_are_a_number_or_one_for_each_metric),
        cmocka_unit_test(missing_and_misspelt_members_are_named),
        cmocka_unit_test(members_are_named_as_options),
        cmocka_unit_test(token_ids_stand_in_for_a_text),
        cmocka_unit_test(notes_are_for_people),
        cmocka_unit_test(members_of_the_wrong_type_are_named),
        cmocka_unit_test(an_evaluation_needs_budgets_methods_and_a_text),
        cmocka_unit_test(another_schema_is_refused_with_both_names),
    };
    return cmocka_run_group_tests_name("pipeline_config", tests, NULL, NULL);
}
