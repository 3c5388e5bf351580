/* See options_json.h. */
#include "core/options_json.h"

#include "core/json.h"

static rb_status add_strings(cJSON *object, const char *name, const rb_string_list *list, rb_error *err)
{
    cJSON *array = cJSON_CreateArray(), *item = NULL;
    rb_status st = array ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for options");
    for (int i = 0; i < list->n && st == RB_OK; i++) {
        item = cJSON_CreateString(list->at[i]);
        st = item ? rb_json_append(array, &item, err) : rb_fail(err, RB_ENOMEM, "out of memory for options");
    }
    if (st == RB_OK) return rb_json_add_item(object, name, &array, err);
    cJSON_Delete(array);
    return st;
}

/* Words of a whole number stand for -1, -2, .. */
static rb_status add_int(cJSON *object, const rb_option *option, int64_t value, rb_error *err)
{
    if (option->choices && value < 0)
        return rb_json_add_string(object, option->long_name, option->choices[-1 - value], err);
    return rb_json_add_number(object, option->long_name, (double)value, err);
}

rb_status rb_option_to_json(cJSON *object, const rb_option *option, rb_error *err)
{
    const char *name = option->long_name;
    if (!rb_option_has_value(option)) return rb_json_add_null(object, name, err);
    switch (option->kind) {
    case RB_OPT_FLAG: return rb_json_add_bool(object, name, *(const bool *)option->value, err);
    case RB_OPT_INT: return add_int(object, option, *(const int64_t *)option->value, err);
    case RB_OPT_SIZE: return rb_json_add_number(object, name, (double)*(const int64_t *)option->value, err);
    case RB_OPT_NUMBER: return rb_json_add_number(object, name, *(const double *)option->value, err);
    case RB_OPT_STRING: return rb_json_add_string(object, name, *(const char *const *)option->value, err);
    case RB_OPT_CHOICE: return rb_json_add_string(object, name, option->choices[*(const int *)option->value], err);
    case RB_OPT_NUMBERS: {
        const rb_number_list *list = option->value;
        return rb_json_add_numbers(object, name, list->at, list->n, err);
    }
    case RB_OPT_STRINGS:
    case RB_OPT_REPEATED: return add_strings(object, name, option->value, err);
    }
    return RB_OK;
}
