/* See profile/layer_reader.h. */
#include "profile/layer_reader.h"

#include "core/cuda_device.h"

static void *reader_run(void *argument)
{
    const layer_reader *r = argument;
    int64_t layer;
    while ((layer = rb_handover_claim(r->layers)) >= 0) {
        rb_error err = {0};
        rb_status st = capture_read_q(r->capture, CAPTURE_TEST, (int)layer, r->q[layer % 2], &err);
        if (st == RB_OK) st = capture_read_k(r->capture, CAPTURE_TEST, (int)layer, r->k[layer % 2], &err);
        if (st == RB_OK) rb_handover_give(r->layers, layer);
        else rb_handover_fail(r->layers, layer, st, &err);
    }
    return NULL;
}

rb_status layer_reader_start(layer_reader *r, const capture_file *capture, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    const model_facts *model = &header->model;
    const size_t head = (size_t)header->text[CAPTURE_TEST].n_tokens * (size_t)model->head_dim * sizeof(float);
    rb_status st;
    r->capture = capture;
    RB_TRY(st, rb_handover_create(&r->layers, 2, model->n_layers, err), done);
    for (int i = 0; i < 2; i++) {
        RB_TRY(st, rb_cuda()->alloc_pinned((void **)&r->q[i], head * (size_t)model->n_q_heads, err), done);
        RB_TRY(st, rb_cuda()->alloc_pinned((void **)&r->k[i], head * (size_t)model->n_kv_heads, err), done);
    }
    if (pthread_create(&r->thread, NULL, reader_run, r) != 0) st = rb_fail(err, RB_ENOMEM, "cannot start a thread");
    r->is_running = st == RB_OK;
done:
    return st;
}

/* Layers come in order: the one taken is the one that is due. */
rb_status layer_reader_wait(const layer_reader *r, rb_error *err)
{
    return rb_handover_take(r->layers) >= 0 ? RB_OK : rb_handover_status(r->layers, err);
}

void layer_reader_release(const layer_reader *r, int layer) { rb_handover_release(r->layers, layer); }

void layer_reader_stop(layer_reader *r)
{
    if (r->layers) rb_handover_stop(r->layers);
    if (r->is_running) pthread_join(r->thread, NULL);
    rb_handover_free(r->layers);
    for (int i = 0; i < 2; i++) {
        rb_cuda()->release_pinned(r->q[i]);
        rb_cuda()->release_pinned(r->k[i]);
    }
}
