/* What this browser keeps. Where it refuses, because site data are blocked or full, this page keeps it until it ends. */

/** Values in `window[area]`, whose very getter may throw. */
function storage(area) {
  const memory = new Map();
  return {
    /** The value of a key, or null. */
    get(key) {
      if (memory.has(key)) return memory.get(key);
      try {
        return window[area].getItem(key);
      } catch {
        return null;
      }
    },

    /** Keep a value; null removes it. */
    set(key, value) {
      memory.delete(key);
      try {
        if (value === null) window[area].removeItem(key);
        else window[area].setItem(key, value);
      } catch {
        memory.set(key, value);
      }
    },
  };
}

/** Values of this browser. */
export const browserStorage = storage("localStorage");

/** Values of this tab, until it is closed. */
export const tabStorage = storage("sessionStorage");
