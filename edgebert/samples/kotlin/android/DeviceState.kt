package edgebert

import android.content.Context
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager

/** What Android says of heat and of the battery, for [pointFor]. Ask again before each call, or listen to the thermal status. */
class DeviceState(context: Context) {
    private val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
    private val battery = context.getSystemService(Context.BATTERY_SERVICE) as BatteryManager

    /** 0 below THERMAL_STATUS_MODERATE, 1 there, 2 above; 0 before Android 10, which does not tell. */
    val heat: Int
        get() = when {
            Build.VERSION.SDK_INT < Build.VERSION_CODES.Q -> 0
            power.currentThermalStatus < PowerManager.THERMAL_STATUS_MODERATE -> 0
            power.currentThermalStatus == PowerManager.THERMAL_STATUS_MODERATE -> 1
            else -> 2
        }

    /** Power-saving mode, or less than [LOW] percent and not charging. */
    val saving: Boolean
        get() = power.isPowerSaveMode ||
            (!battery.isCharging && battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY) < LOW)

    fun point(points: Int): Int = pointFor(points, heat, saving)

    private companion object {
        const val LOW = 15
    }
}
