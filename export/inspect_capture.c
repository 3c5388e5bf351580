/* A capture in the terminal or as JSON: export/inspect.h. Vectors are not read, only what says how they are. */
#include <stdio.h>

#include "calibrate/capture_file.h"
#include "export/inspect.h"

static const char *type_name(const capture_header *header) { return header->value_type == RB_H5_F16 ? "f16" : "f32"; }

static rb_status print_facts(const char *path, const capture_header *header, rb_error *err)
{
    int64_t size_bytes;
    const rb_status st = inspect_file_size(&size_bytes, path, err);
    if (st != RB_OK) return st;
    printf("capture      of queries%s as they enter RoPE, %s\n", header->has_values ? ", keys and values" : " and keys",
           type_name(header));
    inspect_print_model(&header->model);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        inspect_print_text(capture_set_name((capture_set)set), &header->text[set]);
    printf("size         %.1f MiB, %.1f MiB of vectors before compression\n", (double)size_bytes / 1048576.0,
           (double)capture_payload_bytes(header) / 1048576.0);
    printf("output       %s\n", !header->output.is_known    ? "nothing is known of what attention's output goes into"
                                : header->output.has_metric ? "metric of every layer, for sensitivity"
                                                            : "windows and caps, no metric");
    return RB_OK;
}

/* Visits the statistics of the layers that are asked for: prints them, or adds them to the list. */
static rb_status each_layer(const inspect_request *request, const capture_file *capture, cJSON *list, rb_error *err)
{
    const model_facts *model = &capture_file_header(capture)->model;
    block_statistics statistics = {0};
    rb_status st;
    RB_TRY(st, block_statistics_create(&statistics, model, err), done);
    for (int layer = 0; layer < model->n_layers && st == RB_OK; layer++) {
        if (!inspect_wants_layer(request, layer)) continue;
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, layer, &statistics, err), done);
        const inspect_layer means = inspect_layer_of(&statistics);
        if (list) st = inspect_layer_to_json(list, layer, &means, err);
        else inspect_print_layer(layer, &means);
    }
done:
    block_statistics_free(&statistics);
    return st;
}

static rb_status put_json(const inspect_request *request, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    cJSON *json = NULL, *layers = cJSON_CreateArray();
    rb_status st = layers ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the document");
    if (st != RB_OK) return st;
    RB_TRY(st,
           inspect_begin_json(&json, "capture", request->path, &header->model, &header->text[CAPTURE_CALIBRATION],
                              &header->text[CAPTURE_TEST], err),
           done);
    RB_TRY(st, rb_json_add_number(json, "vector_bytes", (double)capture_payload_bytes(header), err), done);
    RB_TRY(st, rb_json_add_string(json, "dtype", type_name(header), err), done);
    RB_TRY(st, rb_json_add_bool(json, "has_values", header->has_values, err), done);
    RB_TRY(st, rb_json_add_bool(json, "has_output_metric", header->output.has_metric, err), done);
    RB_TRY(st, each_layer(request, capture, layers, err), done);
    RB_TRY(st, rb_json_add_item(json, "layers", &layers, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(layers);
    cJSON_Delete(json);
    return st;
}

rb_status inspect_capture(const inspect_request *request, rb_error *err)
{
    capture_file *capture = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&capture, request->path, err), done);
    RB_TRY(st, inspect_check_layer(request, &capture_file_header(capture)->model, err), done);
    if (request->as_json) {
        st = put_json(request, capture, err);
        goto done;
    }
    RB_TRY(st, print_facts(request->path, capture_file_header(capture), err), done);
    inspect_print_layer_head();
    st = each_layer(request, capture, NULL, err);
done:
    capture_close(capture);
    return st;
}
