/* How few bits could do: the rate-distortion bound of a head under the Gaussian model.
 *
 * Model: the 2n dims of a key are independent normal variables, the two of block i with variance b_i / 2 each. Queries
 * are independent of the error and have mean square a_i / 2 in them. With D_i the mean squared error in each dim of
 * block i, the variance of the logit's error is
 *      V = sum_i 2 (a_i / 2) D_i = sum_i a_i D_i,
 * the same V as methods/partition.h: D_i = b_i / 2 (nothing stored) gives a_i b_i / 2. A normal variable needs
 * log2(variance / D) / 2 bits at least (Shannon), so block i needs log2(b_i / (2 D_i)). Minimising the sum of bits at
 * a given V by a Lagrange multiplier makes a_i D_i equal wherever bits are spent. With v_i = a_i b_i / 2 and the water
 * level theta (Cover and Thomas, 10.3.3)
 *      V = sum_i min(theta, v_i),     bits = sum_i max(0, log2(v_i / theta)).
 * It holds for codes of any length over many keys; norms and padding are bits too. Real keys are not normal. Given
 * their energies a normal source is the hardest, so a codec that knows more about the keys than their energies may
 * pass below; one that is tuned for normal ones will not.
 *
 * sqrt(V) as a function of bits is convex too. So for many heads and one budget the `bound` of budget_solve over
 * rate_bound_error at every byte is the model's bound: at equal multipliers, in steps of a byte. */
#ifndef RB_METHODS_RATE_BOUND_H
#define RB_METHODS_RATE_BOUND_H

/* Least V for a number of bits >= 0, and least bits for a V >= 0 (0 from V = sum v_i on; INFINITY for V = 0 unless no
 * v_i is above 0). q_energy (a), k_energy (b) [n_blocks], finite and >= 0, 1 to RB_MAX_BLOCKS of them. */
double rate_bound_error(const double *q_energy, const double *k_energy, int n_blocks, double bits);
double rate_bound_bits(const double *q_energy, const double *k_energy, int n_blocks, double error);

/* How far a head that stores `bits` with variance `error` is from the bound. */
typedef struct rate_distance {
    double bits_per_dim; /* (bits - bits the bound needs for this error) / (2 n_blocks) */
    /* sqrt(error / error of the bound at these bits): how many times larger the mean absolute logit error is; 1 where
     * both are 0. */
    double mae_ratio;
} rate_distance;
rate_distance rate_bound_distance(const double *q_energy, const double *k_energy, int n_blocks, double bits,
                                  double error);

#endif
