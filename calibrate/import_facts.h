/* What an import knows about the model: from options, a config.json and the tensors themselves. */
#ifndef RB_CALIBRATE_IMPORT_FACTS_H
#define RB_CALIBRATE_IMPORT_FACTS_H

#include "calibrate/import_layout.h"

#define IMPORT_INV_FREQ "inv_freq"

/* Geometry is that of the tensors. An option comes before config.json, and config.json before a default. Frequencies:
 * the tensor "inv_freq" [rotary_dim / 2], --rope-theta or config.json; where two of them are there they must agree.
 * Fails with RB_EUSAGE on a fact that nothing says, RB_EMISMATCH on facts that contradict each other. */
rb_status import_facts_resolve(model_facts *out, import_layout *layout, const import_options *options, rb_error *err);

#endif
