package edgebert.app

import java.util.concurrent.ScheduledExecutorService
import java.util.concurrent.ScheduledFuture
import java.util.concurrent.TimeUnit

/**
 * Runs [act] on the last value once values have paused for [pauseMs]: a text is labelled when typing pauses, not at every key. With
 * a worker of one thread no two runs overlap.
 */
class Debounced<T>(private val pauseMs: Long, private val worker: ScheduledExecutorService, private val act: (T) -> Unit) {
    private var waiting: ScheduledFuture<*>? = null

    @Synchronized
    fun submit(value: T) {
        waiting?.cancel(false)
        waiting = worker.schedule({ act(value) }, pauseMs, TimeUnit.MILLISECONDS)
    }
}
