/* See evaluate_setup.h. */
#include "evaluate/evaluate_setup.h"

#include <string.h>

#include "core/message.h"

/* Below, chance decides: a few tokens make the mean and are the 99.9 % quantile, and one answer more or less is an
 * eighth of all. */
enum { ENOUGH_PREDICTED = 256, ENOUGH_NEEDLES = 8 };

void evaluate_setup_free(evaluate_setup *setup) { evaluate_inputs_free(&setup->in); }

const char *evaluate_setup_template(const evaluate_setup *setup, const evaluate_options *options)
{
    return setup->choice.n > 0 ? setup->choice.trials[setup->choice.best].name : options->needle_template;
}

static evaluate_request request_of(const evaluate_setup *setup, const evaluate_options *opt)
{
    const evaluate_inputs *in = &setup->in;
    return (evaluate_request){.model = in->model,
                              .plans = (const bit_plan *const *)in->plans,
                              .n_plans = opt->plans.n,
                              .text = in->text.ids,
                              .n_text = in->text.n,
                              .context = in->facts.context,
                              .bos = in->facts.bos,
                              .with_keys = !opt->values_only,
                              .with_values = !opt->keys_only,
                              .attention_stride = opt->attention_stride,
                              .n_worst_tokens = (int)opt->n_worst_tokens,
                              .is_on_cuda = setup->device == RB_DEVICE_CUDA,
                              .cuda_precision = (layer_cuda_precision)opt->precision,
                              .max_gpu_bytes = opt->max_gpu_bytes};
}

/* Documents by the template that suits the model. */
static rb_status choose_template(evaluate_setup *setup, const evaluate_options *opt, rb_error *err)
{
    needle_choice *choice = &setup->choice;
    rb_status st;
    RB_TRY(st, needle_choice_make(choice, &setup->in, opt, &setup->request, err), done);
    for (int i = 0; i < choice->n; i++)
        rb_message_info("needles: with template %s the unquantized model finds %lld of %lld%s", choice->trials[i].name,
                        (long long)choice->trials[i].n_right, (long long)choice->trials[i].n,
                        i == choice->best ? ": chosen" : "");
    st = evaluate_inputs_make_documents(&setup->in, opt, choice->trials[choice->best].name, err);
done:
    return st;
}

rb_status evaluate_setup_make(evaluate_setup *out, const evaluate_options *opt, const rb_common_options *common,
                              rb_error *err)
{
    rb_status st;
    *out = (evaluate_setup){.device = RB_DEVICE_CPU};
    out->is_auto = opt->n_needles > 0 && !opt->documents && strcmp(opt->needle_template, NEEDLE_TEMPLATE_AUTO) == 0;
    RB_TRY(st, evaluate_inputs_read(&out->in, opt, out->is_auto ? NULL : opt->needle_template, err), done);
    RB_TRY(st, rb_resolve_device(&out->device, common, err), done);
    out->request = request_of(out, opt);
    if (out->is_auto) RB_TRY(st, choose_template(out, opt, err), done);
    if (out->in.documents.n > 0) out->request.documents = &out->in.documents;
done:
    return st;
}

void evaluate_setup_tell_text(int64_t n_predicted)
{
    if (n_predicted > 0 && n_predicted < ENOUGH_PREDICTED)
        rb_message_warn("perplexity and KL are of %lld predicted token%s, too few to judge a plan by, expected a text "
                        "of %d or more",
                        (long long)n_predicted, n_predicted == 1 ? "" : "s", ENOUGH_PREDICTED);
}

void evaluate_setup_tell_needles(const evaluate_setup *setup, const evaluate_options *opt, int64_t n_right)
{
    const long long n = needle_documents_count(&setup->in.documents, DOCUMENT_NEEDLES), n_found = n_right;
    if (n == 0) return;
    if (n < ENOUGH_NEEDLES)
        rb_message_warn("%lld needle document%s: so few are noise, expected %d or more to judge a plan by", n,
                        n == 1 ? "" : "s", ENOUGH_NEEDLES);
    if (2 * n_found >= n) rb_message_info("needles: the unquantized model finds %lld of %lld", n_found, n);
    else
        rb_message_warn("needles: the unquantized model finds only %lld of %lld, so they say little about a plan%s",
                        n_found, n,
                        !opt->documents && !setup->is_auto ? "; --needle-template auto looks for other words" : "");
}
