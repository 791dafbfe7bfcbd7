-- Adds a task unless it waits already.
-- KEYS: stream, waiting tasks, the task's job record. ARGV: task, pending record, life of it in ms.
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[1], '*', 'task', ARGV[1], 'attempt', 0)
local known = redis.call('GET', KEYS[3])
if not known or cjson.decode(known).status ~= 'STARTED' then
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
end
return 1
