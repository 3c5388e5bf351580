/* What a run says when it is told to end. */
#ifndef RB_CALIBRATE_INTERRUPTION_H
#define RB_CALIBRATE_INTERRUPTION_H

/* From now on, with -v, a run that SIGINT, SIGTERM or SIGHUP ends says first that it can be continued. What handled
 * them before comes after; those that are ignored stay so. Call it once. */
void interruption_tell(const char *output);

#endif
