/* What a shell needs to complete a command line, from the table that also parses it: so completion knows every option
 * the day it is added. packaging/completion.bash and packaging/completion.zsh read it. See core/options.h. */
#include "core/options.h"

static const char *argument_kind(const rb_option *option)
{
    switch (option->kind) {
    case RB_OPT_FLAG: return "flag";
    case RB_OPT_CHOICE: return "word";
    case RB_OPT_STRINGS: return option->choices ? "list" : "value";
    case RB_OPT_STRING:
    case RB_OPT_REPEATED: return "file";
    default: return "value";
    }
}

void rb_options_print_completion(FILE *out, const rb_option *table, int n_options)
{
    for (int i = 0; i < n_options; i++) {
        const rb_option *option = &table[i];
        const char *const *words = option->choices ? option->choices : option->suggestions;
        const char short_name = option->short_name ? option->short_name : '-';
        fprintf(out, "--%s\t-%c\t%s\t", option->long_name, short_name, argument_kind(option));
        for (int w = 0; words && words[w]; w++) fprintf(out, "%s%s", w ? "," : "", words[w]);
        fprintf(out, "%s\t%s\n", words ? "" : "-", option->help);
    }
}
