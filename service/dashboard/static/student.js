/* Quantiles of Student's t distribution, for 95 % intervals. */

const EXACT = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622, 2.2281];
const Z = 1.959964;

/** The 97.5 % quantile for `df` degrees of freedom; beyond the table by Fisher's expansion around the normal one. */
export function t975(df) {
  if (df <= EXACT.length) return EXACT[df - 1];
  return (
    Z +
    (Z ** 3 + Z) / (4 * df) +
    (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * df ** 2) +
    (3 * Z ** 7 + 19 * Z ** 5 + 17 * Z ** 3 - 15 * Z) / (384 * df ** 3)
  );
}
