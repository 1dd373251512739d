package edgebert

/**
 * Which operating point to run of so many, 1 the largest: a step down for each degree of heat, and one to save the battery.
 *
 * @param heat 0 as usual, 1 the system throttles, 2 it is about to stop. @param saving low battery, or power-saving mode.
 */
fun pointFor(points: Int, heat: Int, saving: Boolean): Int = minOf(points, 1 + heat + if (saving) 1 else 0)
