"""A client of MQTT 3.1.1 that shares no code with levee nor with mosquitto.

It is told where its export lies, tries what its identity may and may not do,
and prints what happened as one JSON object. It judges nothing.
"""
import json
import ssl
import sys
import threading

import paho.mqtt.client as mqtt

directory, host, port, client_id, allowed, denied, forbidden = sys.argv[1:]
seen = {"connack": None, "granted": {}, "message": None, "published": False, "ended": None}
filters = {}  # by the number of their SUBSCRIBE
happened = threading.Condition()


def note(**what):
    with happened:
        seen.update(what)
        happened.notify_all()


def wait(name, condition):
    with happened:
        if not happened.wait_for(condition, timeout=30):
            seen["gave_up"] = name
            print(json.dumps(seen))
            sys.exit(1)


def on_connect(client, userdata, flags, code):
    note(connack=code)


def on_subscribe(client, userdata, number, granted):
    with happened:
        seen["granted"][filters[number]] = granted[0]
        happened.notify_all()


def on_message(client, userdata, message):
    note(message={"topic": message.topic, "payload": message.payload.decode(), "retain": message.retain})


def on_publish(client, userdata, number):
    note(published=True)


def on_disconnect(client, userdata, code):
    note(ended=code)


options = {"client_id": client_id, "clean_session": True, "protocol": mqtt.MQTTv311}
if hasattr(mqtt, "CallbackAPIVersion"):  # version 2 of the library
    options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
client = mqtt.Client(**options)
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.on_publish, client.on_disconnect = on_publish, on_disconnect
context = ssl.create_default_context(cafile=directory + "/ca.crt")
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(directory + "/client.crt", directory + "/client.key")
client.tls_set_context(context)
client.connect(host, int(port), keepalive=30)
client.loop_start()
wait("connack", lambda: seen["connack"] is not None)
with happened:
    for name in (allowed, denied):
        filters[client.subscribe(name, qos=1)[1]] = name
wait("suback", lambda: len(seen["granted"]) == 2)
client.publish("public/lobby", "hey from paho as " + client_id, qos=1)
wait("puback", lambda: seen["published"])
wait("message", lambda: seen["message"] is not None)
client.publish(forbidden, "must not arrive", qos=1)
wait("end", lambda: seen["ended"] is not None)
print(json.dumps(seen))
