/* Fetches the part of a broadcast's page anew that changes, until nothing changes any more. */
"use strict";
{
    const SHORTEST = 2000, LONGEST = 60000;
    let wait = SHORTEST, pressed = false, timer = 0;

    const part = () => document.getElementById("push-live");
    const goesOn = () => part() !== null && part().dataset.live === "true";

    function show(fresh) {
        const old = part(), focused = document.activeElement;
        if (old.outerHTML === fresh.outerHTML) {
            return;
        }
        const press = old.contains(focused) ? focused.value : "";
        old.replaceWith(fresh);
        if (press) {
            fresh.querySelector(`[value="${CSS.escape(press)}"]`)?.focus();
        }
    }

    async function refresh() {
        if (!document.hidden && !pressed) {
            const began = performance.now();
            try {
                const answer = await fetch(part().dataset.url, {credentials: "same-origin"});
                if (answer.redirected || (answer.status >= 400 && answer.status < 500)) {
                    return; // logged out, not allowed any more, or deleted
                }
                const text = await answer.text();
                const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("push-live");
                if (answer.ok && fresh && !pressed) {
                    show(fresh);
                }
                // A server that takes long is asked less often.
                const took = performance.now() - began;
                wait = answer.ok ? Math.min(LONGEST, Math.max(SHORTEST, 20 * took)) : 2 * wait;
            } catch {
                wait = Math.min(LONGEST, 2 * wait);
            }
        }
        if (goesOn()) {
            timer = setTimeout(refresh, wait);
        }
    }

    // A button that is replaced between down and up is not clicked.
    document.addEventListener("pointerdown", () => { pressed = true; });
    for (const name of ["pointerup", "pointercancel"]) {
        document.addEventListener(name, () => { setTimeout(() => { pressed = false; }); });
    }
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden && goesOn()) {
            clearTimeout(timer);
            refresh();
        }
    });
    if (goesOn()) {
        timer = setTimeout(refresh, wait);
    }
}
