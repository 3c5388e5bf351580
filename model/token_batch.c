/* See token_batch.h. */
#include "model/token_batch.h"

#include "model/layer_tensors.h"
#include "model/vector_math.h"

int64_t token_batch_longest(const token_batch *batch)
{
    int64_t longest = 0;
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        const int64_t length = batch->sequence_start[s + 1] - batch->sequence_start[s];
        if (length > longest) longest = length;
    }
    return longest;
}

static rb_status check_sequences(const token_batch *batch, rb_error *err)
{
    if (batch->n_tokens <= 0 || batch->n_sequences <= 0)
        return rb_fail(err, RB_EINVAL,
                       "forward: a batch of %lld tokens in %lld sequences, expected at least one of each",
                       (long long)batch->n_tokens, (long long)batch->n_sequences);
    if (batch->sequence_start[0] != 0 || batch->sequence_start[batch->n_sequences] != batch->n_tokens)
        return rb_fail(err, RB_EINVAL, "forward: sequences span tokens %lld to %lld, expected 0 to %lld",
                       (long long)batch->sequence_start[0], (long long)batch->sequence_start[batch->n_sequences],
                       (long long)batch->n_tokens);
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        const int64_t length = batch->sequence_start[s + 1] - batch->sequence_start[s];
        if (length <= 0)
            return rb_fail(err, RB_EINVAL, "forward: sequence %lld has %lld tokens, expected at least one",
                           (long long)s, (long long)length);
    }
    return RB_OK;
}

rb_status token_batch_check(const token_batch *batch, int vocab_size, rb_error *err)
{
    const rb_status st = check_sequences(batch, err);
    if (st != RB_OK) return st;
    for (int64_t t = 0; t < batch->n_tokens; t++) {
        if (batch->tokens[t] < 0 || batch->tokens[t] >= vocab_size)
            return rb_fail(err, RB_EINVAL, "forward: token %lld has id %d, expected 0 to %d", (long long)t,
                           (int)batch->tokens[t], vocab_size - 1);
    }
    return RB_OK;
}

rb_status token_batch_embed(const token_batch *batch, const checkpoint *model, float *hidden, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const int64_t width = config->hidden_size, shape[2] = {config->vocab_size, width};
    char name[LAYER_TENSOR_NAME];
    rb_status st = RB_OK;
    model_tensor_name(name, config, config->family->tensors->embedding);
    for (int64_t t = 0; st == RB_OK && t < batch->n_tokens; t++)
        st = checkpoint_load_rows(model, name, 2, shape, batch->tokens[t], 1, hidden + t * width, err);
    if (st == RB_OK && config->embedding_scale != 1)
        scale_row(hidden, hidden, (float)config->embedding_scale, batch->n_tokens * width);
    return st;
}
